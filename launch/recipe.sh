#!/usr/bin/env bash
# launch/recipe.sh [--table1 | --ablation] [--out=DIR] [options of mbjax.compare]
# The recipe for few images of a class (docs/few-images.md), severe and moderate, and MetaBalance with its controls inside
# it, on five draws, into runs/recipe. With --table1, every row of Table 1 besides, on the same draws; with --ablation, what
# each ingredient is worth (configs/few_images.py). `--methods=recipe` is the recipe alone. In each scenario's folder
# differences.md has every row's paired difference from the recipe. For a CPU; resumable. Needs CIFAR-10 in MBJAX_DATA_DIR.
set -euo pipefail
out=runs/recipe
rows=(--methods=recipe,recipe_metabalance,recipe_no_adaptation,recipe_no_adaptation_query) table1= options=()
for argument; do
  case $argument in
    --out=*) out=${argument#*=} ;;
    --table1) table1=yes ;;
    --ablation) rows=() ;;
    --methods=*) rows=("$argument") ;;
    *) options+=("$argument") ;;
  esac
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
launch/table1.sh --config=configs/few_images.py --out="$out" "${rows[@]}" "${options[@]}"
[ -z "$table1" ] || launch/table1.sh --scenarios=scatter,scatter_moderate --out="$out" "${options[@]}"
for scenario in severe moderate; do
  [ "$scenario" = severe ] && others=scatter || others=scatter_moderate
  groups=()
  for run in "$out/$scenario"/runs/*-0 "$out/$others"/runs/*-0; do
    [ -d "$run" ] || continue
    name=${run##*/} name=${name%-*-0}
    folders=$(printf '%s,' "${run%/*}/$name"-????????????????-[0-9]*)
    groups+=("$name=${folders%,}")
  done
  [[ ${#groups[@]} -gt 1 && " ${groups[*]}" == *" recipe="* ]] || continue
  .venv/bin/python -m mbjax.report --reference=recipe "${groups[@]}" >"$out/$scenario/differences.md"
done

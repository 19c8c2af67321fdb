#!/usr/bin/env bash
# launch/recipe.sh [--ablation] [--out=DIR] [options of mbjax.compare]
# The recipe for few images of a class (docs/few-images.md), severe and moderate, beside every row of Table 1 and
# MetaBalance with its controls, on the same five draws, into runs/recipe/SCENARIO. `--methods=balanced` is the recipe alone.
# With --ablation, what each ingredient is worth (configs/few_images.py), into runs/ablation/SCENARIO. In either folder
# differences.md has every row's paired difference from the recipe. For a CPU; resumable. Needs CIFAR-10 in MBJAX_DATA_DIR.
set -euo pipefail
out=runs/recipe recipe=balanced what=(--scenarios=scatter,scatter_moderate) options=()
if [ "${1:-}" = --ablation ]; then
  shift
  out=runs/ablation recipe=recipe what=(--config=configs/few_images.py)
fi
for argument; do
  case $argument in
    --out=*) out=${argument#*=} ;;
    *) options+=("$argument") ;;
  esac
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
launch/table1.sh "${what[@]}" --out="$out" "${options[@]}"
for folder in "$out"/*/; do
  compgen -G "${folder}runs/$recipe-*" >/dev/null || continue
  groups=()
  for run in "${folder}runs"/*-0; do
    name=${run##*/} name=${name%-*-0}
    folders=$(printf '%s,' "${folder}runs/$name"-????????????????-[0-9]*)
    groups+=("$name=${folders%,}")
  done
  .venv/bin/python -m mbjax.report --priors --reference="$recipe" "${groups[@]}" >"${folder}differences.md"
done

#!/usr/bin/env bash
# launch/recipe.sh [--ablation] [options of mbjax.compare]
# The recipe for few images of a class (docs/few-images.md), severe and moderate, beside every row of Table 1 and
# MetaBalance with its controls, on the same five draws, into runs/recipe/SCENARIO. `--methods=balanced` is the recipe alone.
# With --ablation, what each ingredient is worth (configs/few_images.py), into runs/ablation/SCENARIO.
# For a CPU; resumable. Needs CIFAR-10 in MBJAX_DATA_DIR.
table=$(dirname "${BASH_SOURCE[0]}")/table1.sh
if [ "${1:-}" = --ablation ]; then
  shift
  exec "$table" --config=configs/few_images.py --out=runs/ablation "$@"
fi
exec "$table" --scenarios=scatter,scatter_moderate --out=runs/recipe "$@"

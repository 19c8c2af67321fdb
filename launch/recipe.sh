#!/usr/bin/env bash
# launch/recipe.sh [options of mbjax.compare]
# The recipe for few images of a class (docs/few-images.md), severe and moderate, beside every row of Table 1 and
# MetaBalance with its controls, on the same five draws, into runs/recipe/SCENARIO. `--methods=balanced` is the recipe alone.
# For a CPU; resumable. Needs CIFAR-10 in MBJAX_DATA_DIR.
exec "$(dirname "${BASH_SOURCE[0]}")/table1.sh" --scenarios=scatter,scatter_moderate --out=runs/recipe "$@"

#!/usr/bin/env bash
# launch/results.sh [FOLDER]: two tables of docs/results.md, digits and loan default with the settings of their configs, 10
# seeds per row, resumable. FOLDER: runs/results. The loan rows need loan_data.csv (MBJAX_DATA_DIR or ~/.cache/mbjax).
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
for task in digits loan; do
  .venv/bin/python -m mbjax.compare --config="configs/$task.py" --methods=naive,over,metabalance,no_adaptation --notune \
    --seeds=10 --jobs="$(nproc)" --out="${1:-runs/results}/$task"
done

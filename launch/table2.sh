#!/usr/bin/env bash
# launch/table2.sh [FOLDER]: the paper's Tables 2, 6 and 7: every method on loan default and card fraud, 10 seeds, the
# paper's learning rates. Resumable. FOLDER: runs/table2. Needs loan_data.csv and creditcard.csv (or a subset of its rows
# as Parquet) in MBJAX_DATA_DIR or ~/.cache/mbjax.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" trees
folder=${1:-runs/table2}
for task in loan fraud; do
  .venv/bin/python -m mbjax.compare --config="configs/$task.py" --methods=all --seeds=10 --jobs="$(nproc)" \
    --out="$folder/$task"
done

#!/usr/bin/env bash
# launch/results.sh [FOLDER]: makes two tables of docs/results.md, digits and loan default with the paper's own settings,
# 10 seeds per row, resumable. FOLDER: runs/results.
# The loan rows need loan_data.csv (MBJAX_DATA_DIR or ~/.cache/mbjax).
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
folder=${1:-runs/results}

rows() { # task, row, config and options
  cat <<'ROWS'
digits naive --config=configs/digits.py:erm
digits over-sampling --config=configs/digits.py:erm --config.train.sampler=over
digits metabalance --config=configs/digits.py
digits no-adaptation --config=configs/digits.py --config.meta.inner_lr=0.0
loan naive --config=configs/loan.py:erm
loan over-sampling --config=configs/loan.py:erm --config.train.sampler=over
loan under-sampling --config=configs/loan.py:erm --config.train.sampler=under
loan metabalance --config=configs/loan.py
loan ms-metabalance --config=configs/loan.py --config.support.sampler=svmsmote
loan no-adaptation --config=configs/loan.py --config.meta.inner_lr=0.0
ROWS
}

rows | while read -r task row options; do
  for seed in {0..9}; do
    echo "$options --config.seed=$seed --config.eval.every=0.5 --workdir=$folder/$task/$row-$seed"
  done
done | xargs -P "$(nproc)" -L 1 .venv/bin/python -m mbjax.main >/dev/null
for task in digits loan; do
  for row in $(rows | awk -v task=$task '$1 == task {print $2}'); do
    folders=("$folder/$task/$row"-[0-9])
    groups+=("$row=$(IFS=,; echo "${folders[*]}")")
  done
  .venv/bin/python -m mbjax.report "${groups[@]}"
  unset groups
done

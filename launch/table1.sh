#!/usr/bin/env bash
# launch/table1.sh [--scenarios=severe,moderate] [--rows=all] [--seeds=4] [--out=runs/table1] [--config.key=value …]
# The paper's Tables 1 and 8 and its figures 1 and 2: every row of configs/cifar10.py, one run a seed, as many at a time as
# there are GPUs, or CPU cores. The same command does only what is missing, and more rows or seeds come beside those that
# are there. `--scenarios=small --rows=naive,over,metabalance` is for a CPU. Needs CIFAR-10 in MBJAX_DATA_DIR.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
scenarios=severe,moderate rows=all seeds=4 out=runs/table1 options=()
for argument; do
  case $argument in
    --scenarios=*) scenarios=${argument#*=} ;;
    --rows=*) rows=${argument#*=} ;;
    --seeds=*) seeds=${argument#*=} ;;
    --out=*) out=${argument#*=} ;;
    --config.*) options+=("$argument") ;;
    *) sed -n 's/^# //p' launch/table1.sh >&2; [ "$argument" = --help ]; exit ;;
  esac
done
[ "$rows" != all ] || rows=$(.venv/bin/python -c 'from configs import cifar10; print(*cifar10.ROWS, sep=",")')
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || gpus=0

one_run() { # scenario, row, seed; SLOT is the worker's number
  if [ "$gpus" -gt 0 ]; then export CUDA_VISIBLE_DEVICES=$SLOT; else core=(taskset --cpu-list "$SLOT"); fi
  folder=$out/$1/$2-$3
  mkdir -p "$folder"
  echo "$1, $2, seed $3: $folder/log.txt"
  "${core[@]}" .venv/bin/python -m mbjax.main --config="configs/cifar10.py:$1,$2" --config.seed="$3" "${@:4}" \
    --workdir="$folder" &>"$folder/log.txt" || echo "failed: $(tail -n 1 "$folder/log.txt")" >&2
}
export -f one_run
export gpus out
for seed in $(seq 0 $((seeds - 1))); do
  for scenario in ${scenarios//,/ }; do
    for row in ${rows//,/ }; do echo "$scenario $row $seed"; done
  done
done | xargs -r -P "$((gpus > 0 ? gpus : $(nproc)))" --process-slot-var=SLOT -L 1 \
  bash -c 'one_run "${@: -3}" "${@:1:$#-3}"' _ "${options[@]}"

for scenario in ${scenarios//,/ }; do
  groups=() analysis=(--priors --figures="$out/$scenario")
  for row in ${rows//,/ }; do
    finished=$(ls -d "$out/$scenario/$row"-*/result.json 2>/dev/null | xargs -r -n 1 dirname | sort -V | paste -sd,) || true
    [ -z "$finished" ] || groups+=("$row=$finished")
  done
  case " ${groups[*]}" in *" naive="*) analysis+=(--reference=naive) ;; esac
  case " ${groups[*]}" in *" naive="*" metabalance="* | *" metabalance="*" naive="*) analysis+=(--match=naive:metabalance) ;; esac
  [ "$scenario" = small ] || analysis+=(--paper="cifar10_$scenario")
  .venv/bin/python -m mbjax.report "${groups[@]}" "${analysis[@]}" | tee "$out/$scenario/table.md"
done

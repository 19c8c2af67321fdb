#!/usr/bin/env bash
# launch/table3.sh [--rates=0.03,0.1,0.3] [--seeds=3] [--out=runs/table3] [--config.key=value …]
# The paper's Table 3 on drawn faces, configs/faces.py:synthetic, twice: every row with as many updates, and with as many
# images. Each row is trained on seed 0 with every learning rate, keeps the one of the highest validation rank-1 accuracy
# (of equals the lower), and is trained with it on the other seeds; no test image chooses anything. As many runs at a time
# as there are GPUs, or CPU cores. The same command does only what is missing.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
rates=0.03,0.1,0.3 seeds=3 out=runs/table3 options=()
for argument; do
  case $argument in
    --rates=*) rates=${argument#*=} ;;
    --seeds=*) seeds=${argument#*=} ;;
    --out=*) out=${argument#*=} ;;
    --config.*) options+=("$argument") ;;
    *) sed -n 's/^# //p' launch/table3.sh >&2; [ "$argument" = --help ]; exit ;;
  esac
done
updates=$(.venv/bin/python -c 'from configs import faces; print(*faces.ROWS)')
images=$(.venv/bin/python -c 'from configs import faces; print(*faces.TWICE, "metabalance no_adaptation")')
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || gpus=0

one_run() { # row, learning rate, seed; SLOT is the worker's number
  if [ "$gpus" -gt 0 ]; then export CUDA_VISIBLE_DEVICES=$SLOT; else core=(taskset --cpu-list "$SLOT"); fi
  folder=$out/$1/$2-$3
  mkdir -p "$folder"
  echo "$1, learning rate $2, seed $3: $folder/log.txt"
  "${core[@]}" .venv/bin/python -m mbjax.main --config="configs/faces.py:synthetic,$1" --config.optimizer.lr="$2" \
    --config.seed="$3" "${@:4}" --workdir="$folder" &>"$folder/log.txt" ||
    echo "failed: $(tail -n 1 "$folder/log.txt")" >&2
}
all_runs() { # reads lines of row, learning rate, seed
  xargs -r -P "$((gpus > 0 ? gpus : $(nproc)))" --process-slot-var=SLOT -L 1 \
    bash -c 'one_run "${@: -3}" "${@:1:$#-3}"' _ "${options[@]}"
}
chosen() { # the row's learning rate
  for rate in ${rates//,/ }; do
    .venv/bin/python -c 'import json, sys; print(json.load(sys.stdin)["validation"]["rank1_accuracy"], sys.argv[1])' \
      "$rate" 2>/dev/null <"$out/$1/$rate-0/result.json" || true
  done 2>/dev/null | sort -k1,1gr -k2,2g | awk 'NR == 1 {print $2}'
}
export -f one_run
export gpus out

rows=$(printf '%s\n' $updates $images | sort -u)
for row in $rows; do
  for rate in ${rates//,/ }; do echo "$row $rate 0"; done
done | all_runs
for seed in $(seq 1 $((seeds - 1))); do
  for row in $rows; do
    rate=$(chosen "$row")
    [ -z "$rate" ] || echo "$row $rate $seed"
  done
done | all_runs

for table in updates images; do
  groups=()
  for row in ${!table}; do
    rate=$(chosen "$row")
    finished=$(ls -d "$out/$row/$rate"-*/result.json 2>/dev/null | xargs -r -n 1 dirname | sort -V | paste -sd,) || true
    [ -z "$finished" ] || groups+=("$row, learning rate $rate=$finished")
  done
  echo "## Equal $table"
  echo
  .venv/bin/python -m mbjax.report "${groups[@]}"
  echo
done | tee "$out/table.md"

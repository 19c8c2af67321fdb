#!/usr/bin/env bash
# launch/table1.sh [--scenarios=severe,moderate] [--config=FILE] [options of mbjax.compare]
# The paper's Tables 1 and 8 and its figures 1 and 2: every row of configs/cifar10.py on five draws of the images, into
# runs/table1/SCENARIO (--out=DIR: DIR/SCENARIO). One run at a time on each GPU, or on each CPU core. The same command does
# only what is missing. `--scenarios=small` is for a CPU. Needs CIFAR-10 in MBJAX_DATA_DIR.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
file=configs/cifar10.py scenarios=severe,moderate out=runs/table1 options=()
for argument; do
  case $argument in
    --config=*) file=${argument#*=} ;;
    --scenarios=*) scenarios=${argument#*=} ;;
    --out=*) out=${argument#*=} ;;
    -h | --help) sed -n 's/^# //p' launch/table1.sh; exit ;;
    *) options+=("$argument") ;;
  esac
done
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || gpus=0
for scenario in ${scenarios//,/ }; do
  .venv/bin/python -m mbjax.compare --config="$file:$scenario" --seeds=5 --out="$out/$scenario" \
    --jobs="$((gpus > 0 ? gpus : $(nproc)))" "${options[@]}"
done

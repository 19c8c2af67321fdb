#!/usr/bin/env bash
# launch/multi_gpu.sh [--gpus=0,1 | --simulate=8] --config=configs/cifar10.py [--workdir=DIR] [--config.key=value …]
# Trains on several GPUs of this machine in one process: all of them, or those of --gpus. Pairs are shared among them, and
# where there are fewer pairs than GPUs, each pair's batches, too; plain training shares its batches. The result is that of
# one GPU but for rounding; --config.parallel=pmap or none does it otherwise. --simulate=8 does the same on 8 CPU devices.
# Sets up .venv on first use.
here=$PWD arguments=() simulated=()
for argument; do
  case $argument in
    --gpus=*) export CUDA_VISIBLE_DEVICES=${argument#*=} ;;
    --simulate=*) export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=${argument#*=}; simulated=(--config.parallel=shard_map) ;;
    -h | --help) sed -n 's/^# //p' "$0"; exit ;;
    *) arguments+=("$argument") ;;
  esac
done
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
python=$PWD/.venv/bin/python
cd "$here"
exec "$python" -m mbjax.main "${arguments[@]}" "${simulated[@]}"

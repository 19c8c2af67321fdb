#!/usr/bin/env bash
# launch/multi_host.sh --coordinator=HOST:PORT --processes=N --process=I --config=configs/cifar10.py --workdir=DIR
#     [--config.key=value …]
# The same command on each of N hosts, with its own number I from 0: they train as one, each on all of its GPUs. HOST:PORT
# is host 0 and a free port of it; DIR is on a file system that all share. Each host reads the data itself and feeds only
# its own pairs; host 0 writes the results. A host that is lost ends the others; the same commands, on as many hosts or
# fewer, resume from the last checkpoint. mpirun, SLURM (launch/slurm.sbatch) and Kubernetes' training operators tell the
# numbers by themselves: then --processes and --process are not needed.
# `launch/multi_host.sh --simulate=2 --config=…` starts two processes of 2 CPU devices on this machine, to try it out.
# Sets up .venv on first use.
here=$PWD arguments=() simulate=
for argument; do
  case $argument in
    --simulate=*) simulate=${argument#*=} ;;
    -h | --help) sed -n 's/^# //p' "$0"; exit ;;
    *) arguments+=("$argument") ;;
  esac
done
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
python=$PWD/.venv/bin/python
cd "$here"
[ -n "$simulate" ] || exec "$python" -m mbjax.main "${arguments[@]}"

export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=2
job=(--coordinator="127.0.0.1:$((20000 + RANDOM % 20000))" --processes="$simulate") others=()
trap 'kill "${others[@]}" 2>/dev/null || true' EXIT
for ((process = 1; process < simulate; process++)); do
  "$python" -m mbjax.main "${arguments[@]}" "${job[@]}" --process="$process" &
  others+=($!)
done
"$python" -m mbjax.main "${arguments[@]}" "${job[@]}" --process=0
wait

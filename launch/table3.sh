#!/usr/bin/env bash
# launch/table3.sh [options of mbjax.compare]
# The paper's Table 3 on drawn faces: every row of configs/faces.py:synthetic on three seeds, each with the learning rate
# that is best on its validation identities, into runs/table3. Rows called twice have twice as many updates, and so read as
# many images as MetaBalance. The same command does only what is missing.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
case " $* " in *" --help "* | *" -h "*) sed -n 's/^# //p' launch/table3.sh; exit ;; esac
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || gpus=0
exec .venv/bin/python -m mbjax.compare --config=configs/faces.py:synthetic --seeds=3 --out=runs/table3 \
  --jobs="$((gpus > 0 ? gpus : $(nproc)))" "$@"

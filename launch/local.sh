#!/usr/bin/env bash
# launch/local.sh --config=configs/digits.py [--workdir=DIR] [--config.key=value …]
# Sets up .venv on first use, then trains and evaluates on this machine.
here=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
python=$PWD/.venv/bin/python
cd "$here"
exec "$python" -m mbjax.main "$@"

# Sourced by the other scripts here: makes .venv with mbjax and the extras named in $1, once for each setup.cfg; for the
# Python version in $2, if there is one, .venv-$2. On a machine with an NVIDIA GPU the CUDA build of JAX is installed, else
# the CPU build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=${1:-}
version=${2:-}
venv=.venv${version:+-$version}
if command -v nvidia-smi >/dev/null && driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null); then
  # CUDA 13 needs driver 580 or newer.
  [ "${driver%%.*}" -ge 580 ] && extras=${extras:+$extras,}cuda13 || extras=${extras:+$extras,}cuda12
fi
stamp=$venv/mbjax-$(cat setup.cfg pyproject.toml <(echo "$extras") | sha256sum | cut -c1-16)
if [ ! -e "$stamp" ]; then
  python=${PYTHON:-python3}
  [ -z "$version" ] || python=$(launch/find_python.sh "$version")
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "mbjax needs Python 3.11 or newer, and $python is $("$python" --version 2>&1): set PYTHON=/path/to/python3.11" >&2
    exit 1
  }
  echo "setting up $venv${extras:+ with $extras}; once, a few minutes" >&2
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}"
  touch "$stamp"
fi

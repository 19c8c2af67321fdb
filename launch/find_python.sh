#!/usr/bin/env bash
# launch/find_python.sh 3.13: prints where that Python is, on the path or among pyenv's; fails where there is none.
version=${1:?3.13, say}
if "python$version" -c '' 2>/dev/null; then # pyenv's own command is there for versions that are not active, and fails
  command -v "python$version"
else
  compgen -G "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version.*/bin/python" | sort -V | tail -n 1 | grep . || {
    echo "there is no Python $version here: install it, or pyenv install $version" >&2
    exit 1
  }
fi

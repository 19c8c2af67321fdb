#!/usr/bin/env bash
# launch/docs.sh [--no-serve]: builds the site from docs/ into build/docs and serves it on http://127.0.0.1:8000, or only
# builds it. A warning is an error. Sets up .venv on first use.
serve=yes
for argument; do
  case $argument in
    --no-serve) serve= ;;
    *) sed -n 's/^# //p' "$0" >&2; [ "$argument" = --help ] || [ "$argument" = -h ]; exit ;;
  esac
done
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" docs
JAX_PLATFORMS=cpu .venv/bin/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs
echo "built build/docs/index.html" >&2
[ -z "$serve" ] || exec .venv/bin/python -m http.server 8000 --bind 127.0.0.1 --directory build/docs

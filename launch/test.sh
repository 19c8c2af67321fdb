#!/usr/bin/env bash
# launch/test.sh [--python=3.13] [pytest arguments]: lint, types and tests, as CI runs them. Sets up .venv on first use.
# With --python the tests alone, on that Python and the newest JAX for it, in .venv-3.13. mbjax supports 3.11 to 3.13.
# With MBJAX_DATA_DIR set, the tests on the real data that lie there run too.
case ${1:-} in
  --python=*)
    source "$(dirname "$0")/setup.sh" dev "${1#--python=}"
    shift
    ;;
  *)
    source "$(dirname "$0")/setup.sh" dev
    .venv/bin/ruff check
    .venv/bin/ruff format --check
    PYRIGHT_PYTHON_USE_BUNDLED_PYRIGHT=1 .venv/bin/pyright
    ;;
esac
exec "$venv/bin/python" -m pytest "$@"

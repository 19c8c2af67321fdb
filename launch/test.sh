#!/usr/bin/env bash
# launch/test.sh [pytest arguments]: lint, types and tests, as CI runs them. Sets up .venv on first use.
# With MBJAX_DATA_DIR set, the tests on the real data that lie there run too.
source "$(dirname "$0")/setup.sh" dev
.venv/bin/ruff check
.venv/bin/ruff format --check
PYRIGHT_PYTHON_USE_BUNDLED_PYRIGHT=1 .venv/bin/pyright
exec .venv/bin/python -m pytest "$@"

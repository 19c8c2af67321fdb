#!/usr/bin/env bash
# launch/suite.sh [FOLDER]: every row on the 69 imbalanced tables of KEEL, 10 splits each, and the page that says what they
# show. Resumable. FOLDER: runs/suite. Needs keel.zip in MBJAX_DATA_DIR or ~/.cache/mbjax.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" trees
.venv/bin/python -m mbjax.compare --suite=keel --seeds=10 --jobs="$(nproc)" --out="${1:-runs/suite}"

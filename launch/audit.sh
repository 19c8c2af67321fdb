#!/usr/bin/env bash
# launch/audit.sh: looks up known vulnerabilities of what setup.cfg has installed, with pip-audit, in an environment of its
# own. It needs the network: PyPI's index, and its service of vulnerabilities. The exit status is 1 if there are any.
source "$(dirname "$0")/setup.sh" dev
tools=${XDG_CACHE_HOME:-$HOME/.cache}/mbjax/audit
[ -x "$tools/bin/pip-audit" ] || { python3 -m venv "$tools" && "$tools/bin/pip" install --quiet pip-audit; }
.venv/bin/python -m pip freeze --exclude-editable >"$tools/installed.txt"
exec "$tools/bin/pip-audit" --strict --no-deps --disable-pip --requirement "$tools/installed.txt"

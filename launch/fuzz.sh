#!/usr/bin/env bash
# launch/fuzz.sh [--minutes=N]: the strategies of tests/robustness with a fresh seed and 400 examples each, again and again for
# N minutes (30).
# What it finds is printed with a seed that repeats it, and ends it.
source "$(dirname "$0")/setup.sh" dev
minutes=30
for option in "$@"; do
  case $option in
    --minutes=*) minutes=${option#*=} ;;
    *) echo "launch/fuzz.sh: $option: --minutes=N is all it takes" >&2; exit 2 ;;
  esac
done
tests=(tests/robustness/test_fuzz.py tests/robustness/test_model_files.py)
end=$((SECONDS + 60 * minutes)) rounds=0
while [ "$SECONDS" -lt "$end" ]; do
  MBJAX_FUZZ_EXAMPLES=400 .venv/bin/python -m pytest "${tests[@]}" -q --hypothesis-seed="$RANDOM$RANDOM"
  rounds=$((rounds + 1))
done
echo "$rounds rounds of $(cat "${tests[@]}" | grep -c '^@given') strategies with 400 examples: nothing but documented refusals"

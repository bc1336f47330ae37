#!/usr/bin/env bash
# The parity and conformance tests on the oldest transformers that setup.py declares, laid over the environment of test.sh.
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" dev

oldest=$(python -c 'from llava.versions import OLDEST; print(*OLDEST, 0, sep=".")')
overlay="$(python -c 'import sys; print(sys.prefix)')/overlays/transformers-$oldest"
if [[ ! -e "$overlay/installed" ]]; then
    echo "Installing transformers $oldest next to the newest ..."
    mkdir -p "$overlay"
    grep -v '^transformers' constraints.txt >"$overlay.txt"
    python -m pip install --quiet --disable-pip-version-check --target "$overlay" -c "${overlay}.txt" "transformers==$oldest"
    touch "$overlay/installed"
fi
PYTHONPATH="$PWD:$overlay" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile \
    tests/test_versions.py tests/reduction/test_conformance.py tests/reduction/test_teacher_forcing.py tests/model "$@"

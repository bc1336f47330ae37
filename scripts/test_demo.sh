#!/usr/bin/env bash
# The demo's tests with gradio, which wants an older Pillow, laid over the environment of test.sh.
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" dev

overlay="$(python -c 'import sys; print(sys.prefix)')/overlays/demo"
if [[ ! -e "$overlay/installed" || setup.py -nt "$overlay/installed" ]]; then
    echo "Installing gradio ..."
    mkdir -p "$overlay"
    grep -v '^pillow' constraints.txt >"$overlay.txt"
    python -m pip install --quiet --disable-pip-version-check --upgrade --target "$overlay" -c "$overlay.txt" 'gradio>=6.31,<7'
    touch "$overlay/installed"
fi
PYTHONPATH="$PWD:$overlay" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 python -m pytest tests/serve/demo "$@"

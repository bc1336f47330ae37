# Sourced by the other scripts, with the extra to install as argument: enters the repository and a virtual environment
# that holds the package. What is installed already is not asked for again. A script of several steps passes its own arguments
# as well: --help among them prints the comment at its top, before any step.
set -euo pipefail
if [[ " ${*:2} " == *" --help "* || " ${*:2} " == *" -h "* ]]; then
    sed -n '2,/^[^#]/{/^# shellcheck/d; s/^# \{0,1\}//p;}' "${BASH_SOURCE[1]}"
    exit 0
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]]; then
    [[ -x .venv/bin/python ]] || "${PYTHON:-python3}" -m venv .venv
    # shellcheck disable=SC1091
    source .venv/bin/activate
fi
python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2
    exit 1
}

mark="$(python -c 'import sys; print(sys.prefix)')/.llava-condense-$1"
if [[ ! -e "$mark" || setup.py -nt "$mark" || constraints.txt -nt "$mark" ]] || ! python -c 'import llava' 2>/dev/null; then
    echo "Installing llava-condense[$1] ..."
    if ! python -c 'import torch' 2>/dev/null && ! command -v nvidia-smi >/dev/null; then
        # Without a GPU the CPU build does, a tenth of the size; where its index cannot be reached pip goes on without.
        python -m pip install --quiet --disable-pip-version-check --retries 1 -c constraints.txt torch \
            --extra-index-url https://download.pytorch.org/whl/cpu
    fi
    python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$1]"
    touch "$mark"
fi

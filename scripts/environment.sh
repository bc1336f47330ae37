# Sourced by the other scripts: a virtual environment with the package and the extras named in $1, made once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${VIRTUAL_ENV:-}" ]; then
  [ -d .venv ] || python3 -m venv .venv
  # shellcheck disable=SC1091
  . .venv/bin/activate
fi
stamp="$VIRTUAL_ENV/.llava-condense-$1"
if [ ! -e "$stamp" ] || [ setup.py -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
  python -m pip install --quiet -c constraints.txt -e ".[$1]"
  touch "$stamp"
fi

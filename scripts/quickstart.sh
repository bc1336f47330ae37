#!/usr/bin/env bash
# From a fresh clone to a table: installs the package, draws the embedded benchmark, evaluates the embedded model on it
# dense and with visual tokens removed, and draws a curve and the patches that were kept. Run it again and it resumes.
#
#   bash scripts/quickstart.sh                 everything: 400 questions, ten plans
#   bash scripts/quickstart.sh --limit 64      further flags go to llava.eval.run
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

model=playground/checkpoints/llava-shapes-v1
data=playground/data/eval/MME-shapes
results=playground/results/quickstart
layer=2
budgets=(192 64 16)

if [[ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]]; then
    [[ -x .venv/bin/python ]] || "${PYTHON:-python3}" -m venv .venv
    # shellcheck disable=SC1091
    source .venv/bin/activate
fi
python - <<'PYTHON' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
import sys
sys.exit(sys.version_info < (3, 11))
PYTHON

# A mark in the environment saves asking the package index again.
mark="$(python -c 'import sys; print(sys.prefix)')/.llava-condense-eval"
if [[ ! -e "$mark" || setup.py -nt "$mark" || constraints.txt -nt "$mark" ]]; then
    python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[eval]'
    touch "$mark" 2>/dev/null || true
fi

if [[ ! -f "$model/config.json" ]]; then
    echo "$model is not there; it comes with the repository, and python -m llava.shapes.train makes it anew" >&2
    exit 1
fi

python -m llava.shapes.export --format mme --output "$data"

plans=(--reduction full --reduction blind --reduction grid:64 --reduction pool:64)
for budget in "${budgets[@]}"; do
    plans+=(--reduction "fastv@$layer:$budget" --reduction "random@$layer:$budget")
done
python -m llava.eval.run --model-path "$model" --task mme --data "$data" --results "$results" "${plans[@]}" "$@"

picture="$results/kept.png"
if [[ ! -e "$picture" || "$model/config.json" -nt "$picture" ]]; then
    shown=()
    for budget in "${budgets[@]}"; do shown+=(--reduction "fastv@$layer:$budget"); done
    python -m llava.eval.visualize --model-path "$model" --task mme --data "$data" --example "color/0001.png#1" \
        "${shown[@]}" --reduction "random@$layer:64" --reduction grid:64 --reduction pool:64 --output "$picture"
fi

echo
echo "Results are in $results: report.md, curve.png, kept.png, and a folder for every plan."

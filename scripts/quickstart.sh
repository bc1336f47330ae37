#!/usr/bin/env bash
# From a fresh clone to a table: installs the package, draws the embedded benchmark, evaluates the embedded model on it
# dense and with visual tokens removed, and draws a curve and the patches that were kept. Run it again and it resumes.
#
#   bash scripts/quickstart.sh                 everything: 400 questions, ten plans
#   bash scripts/quickstart.sh --limit 64      further flags go to llava.eval.run
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" eval "$@"

model=playground/checkpoints/llava-shapes-v1
data=playground/data/eval/MME-shapes
results=playground/results/quickstart
layer=2
budgets=(192 64 16)

if [[ ! -f "$model/config.json" ]]; then
    echo "$model is not there; it comes with the repository, and python -m llava.shapes.train makes it again" >&2
    exit 1
fi

python -m llava.shapes.export --format mme --output "$data"

# The controls are among these few; without --no-controls every plan would bring all of its own.
plans=(--no-controls --reduction full --reduction blind --reduction grid:64 --reduction pool:64)
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

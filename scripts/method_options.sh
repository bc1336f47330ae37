#!/usr/bin/env bash
# What the options of methods are worth: each at 64 tokens from layer 2 on, on the embedded benchmark. Resumes where it was
# stopped; some 15 minutes on one core. How the methods compare with one another is the leaderboard's (leaderboard.sh).
#
#   bash scripts/method_options.sh [--limit 64]      further flags go to llava.eval.run
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" eval "$@"

model=playground/checkpoints/llava-shapes-v1
data=playground/data/eval/MME-shapes
results=playground/results/options

python -m llava.shapes.export --format mme --output "$data"

# The controls are named here: those of llava.eval.run for every single plan would be as many again.
plans=(--no-controls --reduction full --reduction blind)
for seed in 0 1 2; do
    plans+=(--reduction "random@2:64,seed=$seed")
done
for option in \
    fastv@2:64 fastv@2:64,heads=max_head fastv@2:64,heads=weighted_combination \
    fastv@2:64,heads=weighted_combination,alpha=focus fastv@2:64,heads=adaptive fastv@2:64,diversity=0.3 \
    fastv@2:64,diversity=0.6 text_weighted@2:64 text_weighted@2:64,text=all \
    himap@2:64 "himap@2:128+himap@6:64,rows=image" "himap@2:128+himap@6:64,rows=image,row_normalised=true" \
    custom_selection@2:64 custom_selection@2:64,strategy=tome custom_selection@2:64,place=zero_fill \
    custom_selection@2:64,cover=0.9 custom_selection@2:64,semantic=0.5 custom_selection@2:128+custom_selection@6:32 \
    condensation@2:64 condensation@2:64,strategy=fps condensation@2:64,strategy=dpp condensation@2:64,cover=0.9 \
    condensation@2:128+condensation@4:64+condensation@6:32 condensation@2:128,strategy=fps+condensation@6:32; do
    plans+=(--reduction "$option")
done
python -m llava.eval.run --model-path "$model" --task mme --data "$data" --results "$results" "${plans[@]}" "$@"

echo
echo "Results are in $results: report.md, curve.png, and a folder for every plan."

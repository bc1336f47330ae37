#!/usr/bin/env bash
# Every method of the registry on the embedded benchmark at 128, 64 and 16 tokens from layer 2 on, then the options of
# methods at 64. Resumes where it was stopped; some 20 minutes on two cores.
#
#   bash scripts/methods_benchmark.sh [--limit 64]      further flags go to llava.eval.run
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" eval

model=playground/checkpoints/llava-shapes-v1
data=playground/data/eval/MME-shapes
results=playground/results/methods

python -m llava.shapes.export --format mme --output "$data"

# The controls are named here: those of llava.eval.run for every single plan would be as many again.
plans=(--no-controls --reduction full --reduction blind)
for keep in 128 64 16; do
    for method in fastv text_weighted custom_selection condensation stride random; do
        plans+=(--reduction "$method@2:$keep")
    done
    plans+=(--reduction "random@2:$keep,seed=1" --reduction "random@2:$keep,seed=2")
    # HiMAP's two stages: twice the budget by the text, then the budget by the image
    plans+=(--reduction "himap@2:$((2 * keep))+himap@6:$keep,rows=image")
    plans+=(--reduction "grid:$keep" --reduction "pool:$keep" --reduction "downsample:$keep")
done
# What those that reduce at layer 2 cost on average over the layers, before the language model
for keep in 192 137 96; do
    plans+=(--reduction "grid:$keep" --reduction "pool:$keep")
done
for keep in 196 144 100; do
    plans+=(--reduction "downsample:$keep")
done
for option in \
    fastv@2:64,heads=max_head fastv@2:64,heads=weighted_combination fastv@2:64,heads=weighted_combination,alpha=focus \
    fastv@2:64,heads=adaptive fastv@2:64,diversity=0.3 fastv@2:64,diversity=0.6 \
    "himap@2:128+himap@6:64,rows=image,row_normalised=true" himap@2:64 text_weighted@2:64,text=all \
    custom_selection@2:64,strategy=tome custom_selection@2:64,place=zero_fill custom_selection@2:64,cover=0.9 \
    custom_selection@2:64,semantic=0.5 custom_selection@2:128+custom_selection@6:32 \
    condensation@2:64,strategy=fps condensation@2:64,strategy=dpp condensation@2:64,cover=0.9 \
    condensation@2:128+condensation@4:64+condensation@6:32 condensation@2:128,strategy=fps+condensation@6:32; do
    plans+=(--reduction "$option")
done
python -m llava.eval.run --model-path "$model" --task mme --data "$data" --results "$results" "${plans[@]}" "$@"

echo
echo "Results are in $results: report.md, curve.png, and a folder for every plan."

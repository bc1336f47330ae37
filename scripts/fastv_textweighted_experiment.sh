#!/usr/bin/env bash
# Document 004: text-weighted pruning and FastV at one layer, each with a random control, from all visual tokens down to 16,
# and the two beside each other. Resumes where it was stopped; on two cores some twenty minutes.
#
#   bash scripts/fastv_textweighted_experiment.sh                    on the embedded model and its drawn ScienceQA
#   MODEL=liuhaotian/llava-v1.5-7b QUESTIONS=himap-inference-MCQ.json IMAGES=images/test bash scripts/...
#   bash scripts/fastv_textweighted_experiment.sh --num-samples 20   further flags go to both sweeps
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" eval "$@"

model=${MODEL:-playground/checkpoints/llava-shapes-v1}
data=playground/data/eval/ScienceQA-shapes
questions=${QUESTIONS:-$data/himap-inference-MCQ.json}
results=${RESULTS:-playground/results/analysis/rank}
layer=${LAYER:-2}

if [[ -z "${QUESTIONS:-}" ]]; then
    python -m llava.shapes.export --format scienceqa --output "$data"
fi
images=()
if [[ -n "${IMAGES:-}" ]]; then images=(--image-folder "$IMAGES"); fi

# sweep METHOD NAME: into NAME.json and NAME.png
sweep() {
    local method=$1 file="$results/$2.json"
    shift 2
    python -m llava.experiments.rank_sweep --model-path "$model" --question-file "$questions" "${images[@]}" \
        --method "$method" --pruning-layer "$layer" --num-samples 50 --single-pred-prompt \
        --results "$results/runs" --output-file "$file" --output-plot "${file%.json}.png" "$@"
}
text_weighted=fastv_textweighted_layer${layer}_experiment
fastv=fastv_rank_layer${layer}_experiment
sweep text_weighted "$text_weighted" "$@"
sweep fastv "$fastv" "$@"
python -m llava.experiments.rank_compare "$results/$text_weighted.json" "$results/$fastv.json" \
    --output-file "$results/comparison.json" --output-plot "$results/comparison.png"

#!/usr/bin/env bash
# The learnable mergers on the embedded model: V1, V2, V3 and condensation's cross-attention are trained on 6,400 questions each, then
# compared with what needs no training at 288, 144, 64 and 16 tokens. Resumes where it was stopped.
#
#   bash scripts/mergers.sh [--limit 64]      further flags go to llava.experiments.evaluate_merger
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" train "$@"

model=playground/checkpoints/llava-shapes-v1
data=playground/data/eval/MME-shapes
results=playground/results/mergers

train() { # folder, merger type, steps, further flags
    python -m llava.train.train_merger --config configs/vision_token_pruning.yaml \
        --set "method_settings.merger_type=$2" --set "training_settings.steps=$3" \
        --set "training_settings.output=playground/checkpoints/$1" "${@:4}"
}

[[ -f playground/data/llava-shapes/llava_shapes.json ]] ||
    python -m llava.shapes.export --format llava --images 800 --output playground/data/llava-shapes
train merger-shapes-condensation condensation 100
train merger-shapes-v1 simple 100
# Every question is a prompt of its own, so a batch has fewer.
train merger-shapes-v2 question_aware 400 --set training_settings.batch_size=16
# As document 003 has it: half of the tokens, and the question modulates them.
train merger-shapes-v3 fixed_pooling 400 --set training_settings.batch_size=16 \
    --set method_settings.use_question=true --set method_settings.budgets=null

python -m llava.shapes.export --format mme --output "$data"
python -m llava.experiments.evaluate_merger --model-path "$model" --task mme --data "$data" --results "$results" \
    --budgets 288,144,64,16 --weights playground/checkpoints/merger-shapes-v1 --weights playground/checkpoints/merger-shapes-v2 \
    --weights playground/checkpoints/merger-shapes-v3 --weights playground/checkpoints/merger-shapes-condensation "$@"

echo
echo "Results are in $results: report.md, curve.png, and a folder for every plan."

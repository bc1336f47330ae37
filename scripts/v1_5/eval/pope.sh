#!/usr/bin/env bash
# POPE: answers, and F1 of the three ways to choose what is not there.
#
#   MODEL=playground/checkpoints/llava-shapes-v1 DATA=playground/data/eval/pope-shapes bash scripts/v1_5/eval/pope.sh --reduction fastv@2:64
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=chunks.sh
source "$(dirname "${BASH_SOURCE[0]}")/chunks.sh" eval playground/data/eval/pope
name="${EXP:-$(named "$@")}"

in_chunks "$data/answers/$name.jsonl" python -m llava.eval.model_vqa_loader \
    --model-path "$model" \
    --question-file "$data/llava_pope_test.jsonl" \
    --image-folder "$data/val2014" \
    --temperature 0 \
    --conv-mode vicuna_v1 \
    "$@"

python -m llava.eval.eval_pope \
    --annotation-dir "$data/coco" \
    --question-file "$data/llava_pope_test.jsonl" \
    --result-file "$data/answers/$name.jsonl"

#!/usr/bin/env bash
# TextVQA with OCR hints: answers, and their agreement with ten people.
#
#   MODEL=playground/checkpoints/llava-shapes-v1 DATA=playground/data/eval/textvqa-shapes bash scripts/v1_5/eval/textvqa.sh --reduction fastv@2:64
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=chunks.sh
source "$(dirname "${BASH_SOURCE[0]}")/chunks.sh" eval playground/data/eval/textvqa
name="${EXP:-$(named "$@")}"

in_chunks "$data/answers/$name.jsonl" python -m llava.eval.model_vqa_loader \
    --model-path "$model" \
    --question-file "$data/llava_textvqa_val_v051_ocr.jsonl" \
    --image-folder "$data/train_images" \
    --temperature 0 \
    --conv-mode vicuna_v1 \
    "$@"

python -m llava.eval.eval_textvqa \
    --annotation-file "$data/TextVQA_0.5.1_val.json" \
    --result-file "$data/answers/$name.jsonl"

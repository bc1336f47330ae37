#!/usr/bin/env bash
# COCO Caption: a sentence about every picture, and CIDEr.
#
#   MODEL=playground/checkpoints/llava-shapes-v1 DATA=playground/data/eval/coco_caption-shapes bash scripts/v1_5/eval/coco_caption.sh --reduction fastv@2:64
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=chunks.sh
source "$(dirname "${BASH_SOURCE[0]}")/chunks.sh" eval,caption playground/data/eval/coco_caption
name="${EXP:-$(named "$@")}"

in_chunks "$data/answers/$name.jsonl" python -m llava.eval.model_vqa_loader \
    --model-path "$model" \
    --question-file "$data/llava_coco_caption_val2014.jsonl" \
    --image-folder "$data/val2014" \
    --temperature 0 \
    --conv-mode vicuna_v1 \
    "$@"

python -m llava.eval.eval_answers --task coco_caption --data "$data" --result-file "$data/answers/$name.jsonl"

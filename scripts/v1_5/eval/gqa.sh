#!/usr/bin/env bash
# GQA: answers, their accuracy, and the file that GQA's own program takes.
#
#   MODEL=playground/checkpoints/llava-shapes-v1 DATA=playground/data/eval/gqa-shapes bash scripts/v1_5/eval/gqa.sh --reduction fastv@2:64
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=chunks.sh
source "$(dirname "${BASH_SOURCE[0]}")/chunks.sh" eval playground/data/eval/gqa
name="${EXP:-$(named "$@")}"

split=llava_gqa_testdev_balanced
answers="$data/answers/$split/$name/merge.jsonl"

in_chunks "$answers" python -m llava.eval.model_vqa_loader \
    --model-path "$model" \
    --question-file "$data/$split.jsonl" \
    --image-folder "$data/data/images" \
    --temperature 0 \
    --conv-mode vicuna_v1 \
    "$@"

python scripts/convert_gqa_for_eval.py --src "$answers" --dst "$data/data/testdev_balanced_predictions.json"
python -m llava.eval.eval_answers --task gqa --data "$data" --result-file "$answers"

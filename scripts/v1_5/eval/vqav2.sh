#!/usr/bin/env bash
# VQAv2: answers, the file that the server takes, and the accuracy of a split whose annotations are there.
#
#   MODEL=playground/checkpoints/llava-shapes-v1 DATA=playground/data/eval/vqav2-shapes bash scripts/v1_5/eval/vqav2.sh --reduction fastv@2:64
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=chunks.sh
source "$(dirname "${BASH_SOURCE[0]}")/chunks.sh" eval playground/data/eval/vqav2
name="${EXP:-$(named "$@")}"

year="${SPLIT:-test-dev2015}" # or test2015, val2014
split="llava_vqav2_mscoco_$year"
answers="$data/answers/$split/$name/merge.jsonl"
annotations="$data/v2_mscoco_${year}_annotations.json"

in_chunks "$answers" python -m llava.eval.model_vqa_loader \
    --model-path "$model" \
    --question-file "$data/$split.jsonl" \
    --image-folder "$data/${year/test-dev/test}" \
    --temperature 0 \
    --conv-mode vicuna_v1 \
    "$@"

python scripts/convert_vqav2_for_submission.py --dir "$data" --split "$split" --ckpt "$name"
if [[ -f "$annotations" ]]; then
    python -m llava.eval.eval_answers --task vqav2 --data "$data/$split.jsonl" --result-file "$answers"
else
    echo "$annotations is not there: only the server can score this split"
fi

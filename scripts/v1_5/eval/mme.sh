#!/usr/bin/env bash
# MME: answers, the benchmark's text files, and its calculation.
#
#   MODEL=playground/checkpoints/llava-shapes-v1 DATA=playground/data/eval/MME-shapes bash scripts/v1_5/eval/mme.sh --reduction fastv@2:64
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=chunks.sh
source "$(dirname "${BASH_SOURCE[0]}")/chunks.sh" eval playground/data/eval/MME
name="${EXP:-$(named "$@")}"

in_chunks "$data/answers/$name.jsonl" python -m llava.eval.model_vqa_loader \
    --model-path "$model" \
    --question-file "$data/llava_mme.jsonl" \
    --image-folder "$data/MME_Benchmark_release_version" \
    --temperature 0 \
    --conv-mode vicuna_v1 \
    "$@"

python -m llava.eval.convert_answer_to_mme --data "$data" --experiment "$name"
python -m llava.eval.calculation --results-dir "$data/eval_tool/answers/$name"

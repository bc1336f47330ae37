#!/usr/bin/env bash
# ScienceQA: answers with the option's letter, and their accuracy, as LLaVA reads it and strictly.
#
#   MODEL=playground/checkpoints/llava-shapes-v1 DATA=playground/data/eval/scienceqa-shapes bash scripts/v1_5/eval/sqa.sh --reduction fastv@2:64
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=chunks.sh
source "$(dirname "${BASH_SOURCE[0]}")/chunks.sh" eval playground/data/eval/scienceqa
name="${EXP:-$(named "$@")}"

in_chunks "$data/answers/$name.jsonl" python -m llava.eval.model_vqa_science \
    --model-path "$model" \
    --question-file "$data/llava_test_CQM-A.json" \
    --image-folder "$data/images/test" \
    --single-pred-prompt \
    --temperature 0 \
    --conv-mode vicuna_v1 \
    "$@"

python -m llava.eval.eval_science_qa \
    --base-dir "$data" \
    --result-file "$data/answers/$name.jsonl" \
    --output-file "$data/answers/${name}_output.jsonl" \
    --output-result "$data/answers/${name}_result.json"

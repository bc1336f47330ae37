#!/usr/bin/env bash
# GQA: answers, their accuracy, and the file that GQA's own program takes.
#
#   MODEL=playground/checkpoints/llava-shapes-v1 DATA=playground/data/eval/gqa-shapes bash scripts/v1_5/eval/gqa.sh --reduction fastv@2:64
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/eval.sh" gqa "$@"

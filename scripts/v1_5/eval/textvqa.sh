#!/usr/bin/env bash
# TextVQA with OCR hints: answers, and their agreement with ten people.
#
#   MODEL=playground/checkpoints/llava-shapes-v1 DATA=playground/data/eval/textvqa-shapes bash scripts/v1_5/eval/textvqa.sh --reduction fastv@2:64
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/eval.sh" textvqa "$@"

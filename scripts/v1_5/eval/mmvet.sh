#!/usr/bin/env bash
# MM-Vet: answers of up to 1,024 tokens, and the file that its evaluator takes.
#
#   MODEL=liuhaotian/llava-v1.5-7b bash scripts/v1_5/eval/mmvet.sh --reduction fastv@2:64
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/eval.sh" mmvet "$@"

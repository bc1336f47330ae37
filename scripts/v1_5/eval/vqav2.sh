#!/usr/bin/env bash
# VQAv2: answers, the file that the server takes, and the accuracy of a split whose annotations are there.
#
#   MODEL=playground/checkpoints/llava-shapes-v1 DATA=playground/data/eval/vqav2-shapes bash scripts/v1_5/eval/vqav2.sh --reduction fastv@2:64
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/eval.sh" vqav2 "$@"

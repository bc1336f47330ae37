#!/usr/bin/env bash
# MME: answers, the benchmark's text files, and its calculation.
#
#   MODEL=playground/checkpoints/llava-shapes-v1 DATA=playground/data/eval/MME-shapes bash scripts/v1_5/eval/mme.sh --reduction fastv@2:64
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/eval.sh" mme "$@"

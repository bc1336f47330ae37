#!/usr/bin/env bash
# ScienceQA: answers with the option's letter, and their accuracy, as LLaVA reads it and strictly.
#
#   MODEL=playground/checkpoints/llava-shapes-v1 DATA=playground/data/eval/ScienceQA-shapes bash scripts/v1_5/eval/sqa.sh --reduction fastv@2:64
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/eval.sh" sqa "$@"

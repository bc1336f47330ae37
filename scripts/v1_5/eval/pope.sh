#!/usr/bin/env bash
# POPE: answers, and F1 of the three ways to choose what is not there.
#
#   MODEL=playground/checkpoints/llava-shapes-v1 DATA=playground/data/eval/pope-shapes bash scripts/v1_5/eval/pope.sh --reduction fastv@2:64
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/eval.sh" pope "$@"

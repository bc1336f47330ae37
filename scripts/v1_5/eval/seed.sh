#!/usr/bin/env bash
# SEED-Bench: answers with the option's letter, their accuracy by kind of question, and the file for the leaderboard.
#
#   MODEL=liuhaotian/llava-v1.5-7b bash scripts/v1_5/eval/seed.sh --reduction fastv@2:64
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/eval.sh" seed "$@"

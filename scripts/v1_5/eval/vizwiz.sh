#!/usr/bin/env bash
# VizWiz: answers, and the file that the server takes.
#
#   MODEL=liuhaotian/llava-v1.5-7b bash scripts/v1_5/eval/vizwiz.sh --reduction fastv@2:64
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/eval.sh" vizwiz "$@"

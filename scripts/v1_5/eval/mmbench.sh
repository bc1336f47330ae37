#!/usr/bin/env bash
# MMBench: answers with the option's letter, and the table that the server takes.
#
#   MODEL=liuhaotian/llava-v1.5-7b SPLIT=mmbench_dev_20230712 bash scripts/v1_5/eval/mmbench.sh --reduction fastv@2:64
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/eval.sh" mmbench "$@"

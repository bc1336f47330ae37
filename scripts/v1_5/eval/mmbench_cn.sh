#!/usr/bin/env bash
# MMBench in Chinese: answers with the option's letter, and the table that the server takes.
#
#   MODEL=liuhaotian/llava-v1.5-7b SPLIT=mmbench_dev_cn_20231003 bash scripts/v1_5/eval/mmbench_cn.sh --reduction fastv@2:64
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/eval.sh" mmbench_cn "$@"

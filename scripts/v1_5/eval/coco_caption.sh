#!/usr/bin/env bash
# COCO Caption: a sentence about every picture, and CIDEr.
#
#   MODEL=playground/checkpoints/llava-shapes-v1 DATA=playground/data/eval/coco_caption-shapes bash scripts/v1_5/eval/coco_caption.sh --reduction fastv@2:64
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/eval.sh" coco_caption "$@"

#!/usr/bin/env bash
# A trained LLaVA learns from your own dialogues; DATA, IMAGES, OUTPUT and the others as in finetune.sh. With a LoRA:
# MODEL=liuhaotian/llava-v1.5-13b TOWER='' PROJECTOR='' bash scripts/v1_5/finetune_lora.sh
#
# MODEL    the LLaVA, folder or hub name (default: liuhaotian/llava-v1.5-13b)
#
# On the embedded model, minutes on two cores:
#
#   python -m llava.shapes.export --format llava --images 200 --output playground/data/llava-shapes
#   MODEL=playground/checkpoints/llava-shapes-v1 OUTPUT=playground/checkpoints/shapes-task \
#   DATA=playground/data/llava-shapes/llava_shapes.json IMAGES=playground/data/llava-shapes/images \
#       bash scripts/v1_5/finetune_task.sh --per_device_train_batch_size 2 --max_steps 20
set -euo pipefail
MODEL="${MODEL:-liuhaotian/llava-v1.5-13b}" TOWER="${TOWER-}" PROJECTOR="${PROJECTOR-}" \
    OUTPUT="${OUTPUT:-playground/checkpoints/llava-v1.5-13b-task}" \
    bash "$(dirname "${BASH_SOURCE[0]}")/finetune.sh" "$@"

#!/usr/bin/env bash
# LLaVA-1.5's second stage with a LoRA in place of the language model's own weights; MODEL, DATA, OUTPUT and the others as in
# finetune.sh. What is saved is loaded with MODEL as model_base:
#
#   python -m llava.serve.cli --model-path playground/checkpoints/llava-v1.5-13b-lora --model-base lmsys/vicuna-13b-v1.5 ...
#
# On the embedded model, minutes on two cores:
#
#   python -m llava.shapes.export --format llava --images 200 --output playground/data/llava-shapes
#   MODEL=playground/checkpoints/llava-shapes-v1 TOWER='' PROJECTOR='' OUTPUT=playground/checkpoints/shapes-lora \
#   DATA=playground/data/llava-shapes/llava_shapes.json IMAGES=playground/data/llava-shapes/images \
#       bash scripts/v1_5/finetune_lora.sh --per_device_train_batch_size 2 --max_steps 20
set -euo pipefail
OUTPUT="${OUTPUT:-playground/checkpoints/llava-v1.5-13b-lora}" SHARDED=no \
    bash "$(dirname "${BASH_SOURCE[0]}")/finetune.sh" \
    --lora_enable True --lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5 --learning_rate 2e-4 "$@"

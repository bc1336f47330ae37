#!/usr/bin/env bash
# LLaVA-1.5's first stage: a new projector learns to caption for a frozen language model. Stopped, it goes on from its last
# checkpoint when it is given again.
#
#   MODEL=lmsys/vicuna-7b-v1.5 OUTPUT=playground/checkpoints/mine-pretrain bash scripts/v1_5/pretrain.sh FLAGS
#
# MODEL    language model, folder or hub name (default: lmsys/vicuna-13b-v1.5)
# TOWER    vision tower (default: openai/clip-vit-large-patch14-336); empty: MODEL is a LLaVA and has one
# DATA, IMAGES   conversations and the folder of their pictures (default: LLaVA-Pretrain under playground/data)
# OUTPUT   folder of mm_projector.bin (default: playground/checkpoints/llava-v1.5-13b-pretrain)
# CUDA_VISIBLE_DEVICES   GPUs, one process each (default: all); without a GPU it runs on the CPU
# FLAGS    go to llava.train.train: --reduction fastv@2:64, --skip_bad_records True, --per_device_train_batch_size 16
#
# On the embedded model, whose drawn dialogues have several turns; minutes on two cores:
#
#   python -m llava.shapes.export --format llava --images 200 --output playground/data/llava-shapes
#   MODEL=playground/checkpoints/llava-shapes-v1 TOWER='' OUTPUT=playground/checkpoints/shapes-pretrain \
#   DATA=playground/data/llava-shapes/llava_shapes.json IMAGES=playground/data/llava-shapes/images \
#       bash scripts/v1_5/pretrain.sh --version v1 --per_device_train_batch_size 2 --max_steps 20
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh" train

tower="${TOWER-openai/clip-vit-large-patch14-336}"
vision=()
if [[ -n "$tower" ]]; then
    vision=(--vision_tower "$tower" --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2)
    vision+=(--mm_use_im_start_end False --mm_use_im_patch_token False)
fi
launch=(python)
precision=()
if gpus="$(nvidia-smi --list-gpus 2>/dev/null)"; then
    precision=(--bf16 True --tf32 True)
    visible="${CUDA_VISIBLE_DEVICES-$(seq -s, "$(wc -l <<<"$gpus")")}"
    processes=$(tr ',' '\n' <<<"$visible" | wc -l)
    ((processes < 2)) || launch=(accelerate launch --multi_gpu --num_processes "$processes" --mixed_precision bf16)
fi

"${launch[@]}" -m llava.train.train \
    --model_name_or_path "${MODEL:-lmsys/vicuna-13b-v1.5}" \
    --version plain \
    --data_path "${DATA:-playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json}" \
    --image_folder "${IMAGES:-playground/data/LLaVA-Pretrain/images}" \
    "${vision[@]}" \
    --tune_mm_mlp_adapter True \
    "${precision[@]}" \
    --output_dir "${OUTPUT:-playground/checkpoints/llava-v1.5-13b-pretrain}" \
    --num_train_epochs 1 \
    --per_device_train_batch_size 32 \
    --gradient_accumulation_steps 1 \
    --save_strategy steps \
    --save_steps 24000 \
    --save_total_limit 1 \
    --learning_rate 1e-3 \
    --weight_decay 0. \
    --warmup_ratio 0.03 \
    --lr_scheduler_type cosine \
    --logging_steps 1 \
    --model_max_length 2048 \
    --gradient_checkpointing True \
    --dataloader_num_workers 4 \
    --lazy_preprocess True \
    "$@"

#!/usr/bin/env bash
# LLaVA-1.5's second stage: language model and projector learn from dialogues. Stopped, it goes on from its last checkpoint
# when it is given again.
#
#   MODEL=lmsys/vicuna-7b-v1.5 PROJECTOR=playground/checkpoints/mine-pretrain/mm_projector.bin \
#   OUTPUT=playground/checkpoints/mine bash scripts/v1_5/finetune.sh FLAGS
#
# MODEL    language model, folder or hub name (default: lmsys/vicuna-13b-v1.5)
# TOWER    vision tower (default: openai/clip-vit-large-patch14-336); empty: MODEL is a LLaVA and has one
# PROJECTOR   mm_projector.bin to begin with (default: pretrain.sh's); empty: MODEL's own
# DATA, IMAGES   conversations and the folder of their pictures (default: llava_v1_5_mix665k.json, playground/data)
# OUTPUT   folder of the model (default: playground/checkpoints/llava-v1.5-13b)
# SHARDED  whether several GPUs share the weights, by FSDP (default: yes); ZeRO instead: pip install deepspeed, SHARDED=no,
#          and --deepspeed scripts/zero3.json among FLAGS
# CUDA_VISIBLE_DEVICES   GPUs, one process each (default: all); without a GPU it runs on the CPU
# FLAGS    go to llava.train.train: --reduction fastv@2:64, --skip_bad_records True, --cut_long_records True
#
# On the embedded model, minutes on two cores:
#
#   python -m llava.shapes.export --format llava --images 200 --output playground/data/llava-shapes
#   MODEL=playground/checkpoints/llava-shapes-v1 TOWER='' PROJECTOR='' OUTPUT=playground/checkpoints/shapes-tuned \
#   DATA=playground/data/llava-shapes/llava_shapes.json IMAGES=playground/data/llava-shapes/images \
#       bash scripts/v1_5/finetune.sh --per_device_train_batch_size 2 --max_steps 20
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh" train

tower="${TOWER-openai/clip-vit-large-patch14-336}"
projector="${PROJECTOR-playground/checkpoints/llava-v1.5-13b-pretrain/mm_projector.bin}"
vision=()
if [[ -n "$tower" ]]; then
    vision=(--vision_tower "$tower" --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2)
    vision+=(--mm_use_im_start_end False --mm_use_im_patch_token False)
fi
[[ -z "$projector" ]] || vision+=(--pretrain_mm_mlp_adapter "$projector")
launch=(python)
precision=()
if gpus="$(nvidia-smi --list-gpus 2>/dev/null)"; then
    precision=(--bf16 True --tf32 True)
    visible="${CUDA_VISIBLE_DEVICES-$(seq -s, "$(wc -l <<<"$gpus")")}"
    processes=$(tr ',' '\n' <<<"$visible" | wc -l)
    if ((processes > 1)); then
        launch=(accelerate launch --num_processes "$processes" --mixed_precision bf16)
        if [[ "${SHARDED:-yes}" == yes ]]; then
            launch+=(--use_fsdp --fsdp_version 1 --fsdp_use_orig_params true --fsdp_state_dict_type FULL_STATE_DICT)
            launch+=(--fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP --fsdp_transformer_layer_cls_to_wrap LlamaDecoderLayer)
        else
            launch+=(--multi_gpu)
        fi
    fi
fi

"${launch[@]}" -m llava.train.train \
    --model_name_or_path "${MODEL:-lmsys/vicuna-13b-v1.5}" \
    --version v1 \
    --data_path "${DATA:-playground/data/llava_v1_5_mix665k.json}" \
    --image_folder "${IMAGES:-playground/data}" \
    "${vision[@]}" \
    --image_aspect_ratio pad \
    --group_by_modality_length True \
    "${precision[@]}" \
    --output_dir "${OUTPUT:-playground/checkpoints/llava-v1.5-13b}" \
    --num_train_epochs 1 \
    --per_device_train_batch_size 16 \
    --gradient_accumulation_steps 1 \
    --save_strategy steps \
    --save_steps 50000 \
    --save_total_limit 1 \
    --learning_rate 2e-5 \
    --weight_decay 0. \
    --warmup_ratio 0.03 \
    --lr_scheduler_type cosine \
    --logging_steps 1 \
    --model_max_length 2048 \
    --gradient_checkpointing True \
    --dataloader_num_workers 4 \
    --lazy_preprocess True \
    "$@"

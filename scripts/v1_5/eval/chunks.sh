# shellcheck shell=bash
# Sourced by the scripts beside it, with the extra to install and the benchmark's usual folder as arguments.
#
#   MODEL=liuhaotian/llava-v1.5-13b DATA=/data/pope CUDA_VISIBLE_DEVICES=0,1 bash scripts/v1_5/eval/pope.sh FLAGS
#
# MODEL    folder or hub name (default: liuhaotian/llava-v1.5-7b)
# DATA     folder of the benchmark (default: its own under playground/data/eval, as LLaVA lays it out)
# EXP      name of the answers (default: the model's, with the flags)
# CUDA_VISIBLE_DEVICES   GPUs that share the questions, a chunk each (default: one process wherever the model runs)
# FLAGS    go to the program that asks the questions: --reduction fastv@2:144, --batch-size 16, --dtype bfloat16
# shellcheck disable=SC1091,SC2034
source "$(dirname "${BASH_SOURCE[0]}")/../../environment.sh" "$1"

model="${MODEL:-liuhaotian/llava-v1.5-7b}"
data="${DATA:-$2}"

# The name of an experiment: the model's, and the flags without what no file name should have.
named() {
    local flags
    flags="$(printf '%s' "$*" | tr -cs '[:alnum:]@.=+_' '-')"
    printf '%s' "$(basename "$model")${flags:+-${flags#-}}"
}

# in_chunks ANSWERS COMMAND...: run the command for every chunk at once, each on its GPU, and join their answers in order.
in_chunks() {
    local answers=$1 folder=${1%/merge.jsonl} gpus pids=() parts=() index part failed=0
    folder=${folder%.jsonl}
    shift
    IFS=',' read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-}"
    local chunks=${#gpus[@]}
    if ((chunks < 2)); then
        "$@" --answers-file "$answers"
        return
    fi
    for ((index = 0; index < chunks; index++)); do
        part="$folder/${chunks}_$index.jsonl"
        parts+=("$part")
        CUDA_VISIBLE_DEVICES=${gpus[index]} "$@" --num-chunks "$chunks" --chunk-idx "$index" --answers-file "$part" &
        pids+=($!)
    done
    for index in "${!pids[@]}"; do
        wait "${pids[index]}" || failed=$((failed + 1))
    done
    if ((failed)); then
        echo "$failed of $chunks chunks failed; give the same command again and the others are not asked anew" >&2
        return 1
    fi
    cat "${parts[@]}" >"$answers"
}

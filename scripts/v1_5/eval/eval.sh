#!/usr/bin/env bash
# The evaluations of LLaVA-1.5: answers to a benchmark's questions, then their score. The scripts next to it name the task.
#
#   MODEL=liuhaotian/llava-v1.5-13b DATA=/data/pope CUDA_VISIBLE_DEVICES=0,1 bash scripts/v1_5/eval/pope.sh FLAGS
#
# MODEL    folder or hub name (default: liuhaotian/llava-v1.5-7b)
# DATA     folder of the benchmark (default: its own under playground/data/eval, as LLaVA lays it out)
# EXP      name of the answers (default: the model's, with the flags)
# SPLIT    of VQAv2: test-dev2015 (default), test2015, val2014; of MMBench: its table's name (default: LLaVA's)
# CUDA_VISIBLE_DEVICES   GPUs that share the questions, a chunk each (default: one process wherever the model runs)
# FLAGS    go to the program that asks the questions: --reduction fastv@2:144, --batch-size 16, --dtype bfloat16
set -euo pipefail

task=$1
shift
folder=$task extra=eval images='' program=model_vqa_loader asked=() # of the benchmark, to install, that asks, and its further flags
case "$task" in
coco_caption) questions=llava_coco_caption_val2014.jsonl images=val2014 extra=eval,caption ;;
gqa) questions=llava_gqa_testdev_balanced.jsonl images=data/images ;;
mme) questions=llava_mme.jsonl images=MME_Benchmark_release_version folder=MME ;;
mmbench) questions="${SPLIT:-mmbench_dev_20230712}.tsv" program=model_vqa_mmbench asked=(--single-pred-prompt) ;;
mmbench_cn)
    questions="${SPLIT:-mmbench_dev_cn_20231003}.tsv"
    program=model_vqa_mmbench asked=(--single-pred-prompt --lang cn)
    ;;
mmvet) questions=llava-mm-vet.jsonl images=images folder=mm-vet program=model_vqa ;;
pope) questions=llava_pope_test.jsonl images=val2014 ;;
seed) questions=llava-seed-bench.jsonl images=. folder=seed_bench ;;
sqa)
    questions=llava_test_CQM-A.json images=images/test folder=scienceqa
    program=model_vqa_science asked=(--single-pred-prompt)
    ;;
textvqa) questions=llava_textvqa_val_v051_ocr.jsonl images=train_images ;;
vizwiz) questions=llava_test.jsonl images=test ;;
vqav2)
    year="${SPLIT:-test-dev2015}"
    questions="llava_vqav2_mscoco_$year.jsonl" images="${year/test-dev/test}"
    ;;
*)
    echo "$task is no evaluation; there are coco_caption, gqa, mmbench, mmbench_cn, mme, mmvet, pope, seed, sqa," \
        "textvqa, vizwiz, vqav2" >&2
    exit 2
    ;;
esac
# shellcheck source-path=SCRIPTDIR source=../../environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../environment.sh" "$extra"

model="${MODEL:-liuhaotian/llava-v1.5-7b}"
data="${DATA:-playground/data/eval/$folder}"
flags="$(printf '%s' "$*" | tr -cs '[:alnum:]@.=+_' '-')" # what a file name may have of them
name="${EXP:-$(basename "$model")${flags:+-${flags#-}}}"
split="${questions%.*}"
answers="$data/answers/$name.jsonl" parts="$data/answers/$name"
if [[ $task == gqa || $task == vqav2 ]]; then
    parts="$data/answers/$split/$name" answers="$data/answers/$split/$name/merge.jsonl"
elif [[ $task == mmbench* ]]; then
    parts="$data/answers/$split/$name" answers="$data/answers/$split/$name.jsonl"
elif [[ $task == seed ]]; then
    answers="$parts/merge.jsonl"
fi

# Ask all questions, or one chunk of them: ask ANSWERS [FLAGS].
ask() {
    local file=$1
    shift
    python -m "llava.eval.$program" --model-path "$model" --question-file "$data/$questions" \
        ${images:+--image-folder "$data/$images"} ${asked[@]+"${asked[@]}"} \
        --temperature 0 --conv-mode vicuna_v1 ${given[@]+"${given[@]}"} "$@" \
        --answers-file "$file"
}

# Every chunk at once, each on its GPU; their answers are joined in order.
ask_in_chunks() {
    local files=() pids=() index failed=0
    for index in "${!gpus[@]}"; do
        files+=("$parts/${#gpus[@]}_$index.jsonl")
        CUDA_VISIBLE_DEVICES=${gpus[index]} ask "${files[index]}" --num-chunks ${#gpus[@]} --chunk-idx "$index" &
        pids+=($!)
    done
    for index in "${!pids[@]}"; do
        wait "${pids[index]}" || failed=$((failed + 1))
    done
    if ((failed)); then
        echo "$failed of ${#gpus[@]} chunks failed; give the same command again and the others are not asked again" >&2
        return 1
    fi
    cat "${files[@]}" >"$answers"
}

given=("$@")
IFS=',' read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-}"
if ((${#gpus[@]} < 2)); then ask "$answers"; else ask_in_chunks; fi

case "$task" in
coco_caption) python -m llava.eval.eval_answers --task coco_caption --data "$data" --result-file "$answers" ;;
gqa)
    python scripts/convert_gqa_for_eval.py --src "$answers" --dst "$data/data/testdev_balanced_predictions.json"
    python -m llava.eval.eval_answers --task gqa --data "$data" --result-file "$answers"
    ;;
mme)
    python -m llava.eval.convert_answer_to_mme --data "$data" --experiment "$name"
    python -m llava.eval.calculation --results-dir "$data/eval_tool/answers/$name"
    ;;
mmbench | mmbench_cn)
    python scripts/convert_mmbench_for_submission.py --annotation-file "$data/$questions" --experiment "$name" \
        --result-dir "$data/answers/$split" --upload-dir "$data/answers_upload/$split"
    ;;
mmvet) python scripts/convert_mmvet_for_eval.py --src "$answers" --dst "$data/results/$name.json" ;;
pope)
    python -m llava.eval.eval_pope --annotation-dir "$data/coco" --question-file "$data/$questions" --result-file "$answers"
    ;;
seed)
    python scripts/convert_seed_for_submission.py --annotation-file "$data/SEED-Bench.json" --result-file "$answers" \
        --result-upload-file "$data/answers_upload/$name.jsonl"
    ;;
sqa)
    python -m llava.eval.eval_science_qa --base-dir "$data" --result-file "$answers" \
        --output-file "$data/answers/${name}_output.jsonl" --output-result "$data/answers/${name}_result.json"
    ;;
textvqa)
    python -m llava.eval.eval_textvqa --annotation-file "$data/TextVQA_0.5.1_val.json" --result-file "$answers"
    ;;
vizwiz)
    python scripts/convert_vizwiz_for_submission.py --annotation-file "$data/$questions" --result-file "$answers" \
        --result-upload-file "$data/answers_upload/$name.json"
    ;;
vqav2)
    python scripts/convert_vqav2_for_submission.py --dir "$data" --split "$split" --ckpt "$name"
    annotations="$data/v2_mscoco_${year}_annotations.json"
    if [[ -f "$annotations" ]]; then
        python -m llava.eval.eval_answers --task vqav2 --data "$data/$questions" --result-file "$answers"
    else
        echo "$annotations is not there: only the server can score this split"
    fi
    ;;
esac

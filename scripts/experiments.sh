#!/usr/bin/env bash
# Every experiment of the source documents on the embedded model: a JSON and a figure each, and their runs, which a stopped
# script goes on from. An hour on two cores.
#
#   bash scripts/experiments.sh                      further flags go to every experiment, e.g. --no-controls
#   SAMPLES=400 bash scripts/experiments.sh          questions each (default: 30 to 200)
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" eval "$@"

results=playground/results/experiments
mme=playground/data/eval/MME-shapes
science=playground/data/eval/ScienceQA-shapes
python -m llava.shapes.export --format mme --output "$mme"
python -m llava.shapes.export --format scienceqa --output "$science"
more=("$@")
common=(--model-path playground/checkpoints/llava-shapes-v1)
on_mme=("${common[@]}" --question-file "$mme" --num-samples "${SAMPLES:-120}")
on_science=("${common[@]}" --question-file "$science/himap-inference-MCQ.json" --num-samples "${SAMPLES:-60}")

# into NAME: where an experiment writes its JSON, its figure and its runs
into() { echo "--output-file $results/$1.json --output-plot $results/$1.png --results $results/runs/$1"; }

# shellcheck disable=SC2046  # the words of into are flags and their values
{
    python scripts/mme_condensation_experiment.py "${on_mme[@]}" --num-samples "${SAMPLES:-200}" $(into mme_condensation) \
        --run-all --target-tokens 32 "${more[@]}"
    python scripts/mme_cutoff_experiment.py "${on_mme[@]}" $(into mme_cutoff) "${more[@]}"
    python scripts/mme_diversity_pruning_experiment.py "${on_mme[@]}" --num-samples "${SAMPLES:-60}" \
        $(into mme_diversity_pruning) --keep-tokens 8 "${more[@]}"
    python scripts/fastv_layer_cutoff_experiment.py "${on_science[@]}" $(into fastv_layer_cutoff) "${more[@]}"
    python scripts/fastv_sparse_layer_experiment.py "${on_science[@]}" $(into fastv_sparse_layer) --kept-tokens 8 "${more[@]}"
    python scripts/fastv_custom_selection_experiment.py "${on_science[@]}" $(into fastv_custom_selection) \
        --kept-tokens 8 --selection-method fps "${more[@]}"
    python scripts/himap_cutoff_sweep.py "${on_science[@]}" $(into himap_cutoff_sweep) "${more[@]}"
}

# One plan each, against the full model and the controls
python scripts/custom_selection_inference.py "${on_science[@]}" --custom-kept-tokens 8 --custom-selection-method fps \
    --custom-agg-layer 2 --output-file "$results/custom_selection.json" --results "$results/runs/custom_selection" "${more[@]}"
python scripts/eval_scivqa.py "${on_science[@]}" --use-fast-v --fast-v-agg-layer 2 --fast-v-attention-rank 64 \
    --fast-v-token-selection-method max_head \
    --output-file "$results/eval_scivqa.json" --results "$results/runs/eval_scivqa" "${more[@]}"
python scripts/eval_mme.py "${on_mme[@]}" --use-hmap-v --hmap-v-attn-txt-layer 2 --hmap-v-attn-txt-rank 128 \
    --hmap-v-attn-img-layer 6 --hmap-v-attn-img-rank 64 \
    --output-file "$results/eval_mme.json" --results "$results/runs/eval_mme" "${more[@]}"
RESULTS="$results/rank" bash scripts/fastv_textweighted_experiment.sh --num-samples "${SAMPLES:-30}" "${more[@]}"

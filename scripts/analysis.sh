#!/usr/bin/env bash
# Every analysis of attention on the embedded model: figures and a JSON each. Ten minutes on two cores.
#
#   bash scripts/analysis.sh                         further flags go to every analysis, e.g. --reduction fastv@2:64
#   SAMPLES=8 bash scripts/analysis.sh               questions of each subtask (default: 4)
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" eval

results=playground/results/analysis
mme=playground/data/eval/MME-shapes
science=playground/data/eval/ScienceQA-shapes
python -m llava.shapes.export --format mme --output "$mme"
python -m llava.shapes.export --format scienceqa --output "$science"
model=(--model-path playground/checkpoints/llava-shapes-v1)
on_mme=("${model[@]}" --task mme --question-file "$mme" --samples-per-category "${SAMPLES:-4}")
on_science=("${model[@]}" --task scienceqa --question-file "$science/himap-inference-MCQ.json" --samples-per-category "${SAMPLES:-4}")

python -m llava.analysis.flow "${on_mme[@]}" --output-dir "$results/flow" "$@"
python -m llava.analysis.heads "${on_mme[@]}" --output-dir "$results/heads" "$@"
python -m llava.analysis.entropy "${on_mme[@]}" --output-dir "$results/entropy" "$@"
python -m llava.analysis.heatmap "${model[@]}" --task mme --question-file "$mme" --samples-per-category 1 \
    --output-dir "$results/heatmap" "$@"
python -m llava.analysis.saliency "${on_mme[@]}" --output-dir "$results/saliency_mme"
python -m llava.analysis.saliency "${on_science[@]}" --output-dir "$results/saliency_scienceqa"
python -m llava.analysis.disruption "${on_mme[@]}" --output-dir "$results/disruption"

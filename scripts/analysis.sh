#!/usr/bin/env bash
# Every analysis of attention on the embedded model: figures and a JSON each. Half an hour on two cores.
#
#   bash scripts/analysis.sh                         further flags go to every analysis, e.g. --reduction fastv@2:64
#   SAMPLES=8 bash scripts/analysis.sh               questions of each subtask (default: 4)
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" eval "$@"

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

plans=()
for plan in fastv@2:64 fastv@2:64,rope=false fastv@9:64 text_weighted@2:64 himap@2:64 dart@2:64 fastervlm:64 visionzip:64 vispruner:64 \
    divprune:64 cdpruner:64,relevance=embeddings prunesid:64 eadp@projected:64,relevance=embeddings random:64; do
    plans+=(--reduction "$plan")
done
python -m llava.analysis.agreement "${model[@]}" --task mme --question-file "$mme" --num-samples 24 --output-dir "$results/agreement" "${plans[@]}"
# The model of real parts, where llava things build has made it
if [[ -d playground/checkpoints/llava-things-v1 ]]; then
    things=playground/data/eval/MME-things
    python -m llava.things.export --format mme --output "$things"
    real=(--model-path playground/checkpoints/llava-things-v1 --task mme --question-file "$things" --num-samples 24)
    python -m llava.analysis.agreement "${real[@]}" --output-dir "$results/things_agreement" "${plans[@]}"
    python -m llava.analysis.flow "${real[@]}" --output-dir "$results/things_flow"
fi

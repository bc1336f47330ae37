#!/usr/bin/env bash
# Every method on the embedded benchmark at equal true means of visual tokens over the layers, beside its controls, and the
# table of it. Resumes where it was stopped; some four hours on one core.
#
#   bash scripts/leaderboard.sh                all means
#   bash scripts/leaderboard.sh 64 128         these alone
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" eval

model=playground/checkpoints/llava-shapes-v1
data=${DATA:-playground/data/eval/MME-shapes}
results=${RESULTS:-playground/results/leaderboard}
means=("$@")
[[ ${#means[@]} -gt 0 ]] || means=(192 128 64 32 16)

[[ -d "$data" ]] || python -m llava.shapes.export --format mme --output "$data"

evaluate() {
    python -m llava.eval.run --model-path "$model" --task mme --data "$data" --results "$results" --no-controls "$@"
}

# The tower came without CLIP's text side: the question is compared in the language model's embeddings.
embedded=,relevance=embeddings
early=(
    fastervlm visionzip vispruner divprune "cdpruner$embedded" "cenprune$embedded" cenprune,base=divprune scope holov
    "trim$embedded" hired prumerge prumerge_plus "eadp$embedded" id_selection otprune apet restore prunesid
    condensation@features,heads=1 custom_selection@features
)
# Behind layer 1 of 14 a mean of 41 tokens is left at least: below there is nothing to choose inside the decoder.
inside=(
    fastv@1 fastv@1,rope=false fastv@1,grid=0.3 himap@1 text_weighted@1 dart@1 priortr@1 diprune@1
    condensation@1 custom_selection@1 divprune@1 pact@1
    pyramiddrop pyramiddrop,layers=2-6-12 sparsevlm sparsevlm_plus clse v2drop feather fitprune tops vscan,shallow=0
)

# plan KEEP NAME[,OPTIONS]: the plan with a budget behind its name
plan() {
    local name=${2%%,*} options=${2#"${2%%,*}"}
    echo "$name:$1$options"
}

evaluate --reduction full --reduction blind
for mean in "${means[@]}"; do
    square=$(python -c "print(round($mean ** 0.5) ** 2)")
    evaluate --reduction "grid:$mean" --reduction "pool:$mean" --reduction "downsample:$square" --reduction "stride@features:$mean" \
        --reduction "random@features:$mean" --reduction "random@features:$mean,seed=1" --reduction "random@features:$mean,seed=2"
    # The tower's four layers can halve 576 patches to 36.
    evaluate --reduction "tome:$mean" || echo "no tome at a mean of $mean"
    for name in "${early[@]}"; do
        evaluate --reduction "$(plan "$mean" "$name")"
    done
    for name in "${inside[@]}"; do
        # A mean that a plan cannot have is said and passed over.
        evaluate --match "tokens=$mean" --reduction "$(plan 1.0 "$name")" || echo "no $name at a mean of $mean"
    done
done
python -m llava.eval.report "$results"
python scripts/leaderboard_table.py "$results"

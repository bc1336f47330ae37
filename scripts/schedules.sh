#!/usr/bin/env bash
# Whether a mean of visual tokens is better spent early: random tokens, divprune and tops, flat and falling, at means of 64, 32 and
# 16 on photographs. Resumes where it was stopped; some 40 minutes of a core.
#
#   bash scripts/schedules.sh [--limit 64]      further flags go to llava.eval.run
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" eval "$@"

model=playground/checkpoints/llava-things-v1
results="${RESULTS:-playground/results/schedules}"

[[ -e "$model/config.json" ]] || python -m llava.things.build
python -m llava.things.export --format pope --images 25 --output playground/data/eval/pope-things
python -m llava.things.export --format mme --output playground/data/eval/MME-things

# The mean, then what enters, what goes on from layer 11 and what from layer 22: the schedule of tops.
plans=(--no-controls --reduction full)
for budgets in "64 110 55 13" "32 55 27 7" "16 28 14 3"; do
    read -r mean first second third <<<"$budgets"
    for seed in 0 1 2; do
        plans+=(--reduction "random:$mean,seed=$seed")
        plans+=(--reduction "random:$first,seed=$seed+random@11:$second,seed=$seed+random@22:$third,seed=$seed")
    done
    plans+=(--reduction "divprune:$mean" --reduction "divprune:$first+divprune@11:$second+divprune@22:$third")
    plans+=(--reduction "tops@projected:$mean" --reduction "tops:$second")
done
for task in pope mme; do
    data=playground/data/eval/$([[ $task == mme ]] && echo MME || echo pope)-things
    python -m llava.eval.run --model-path "$model" --dtype bfloat16 --task "$task" --data "$data" --results "$results/$task" \
        "${plans[@]}" "$@"
done
python -m llava.eval.report "$results"

echo
echo "Results are in $results: report.md, curves, and a folder for every plan. A plan against its flat one:"
echo "llava report $results --against divprune"

#!/usr/bin/env bash
# Every method on every model and task of configs/leaderboard.yaml at equal means of visual tokens, and the page of it.
# Resumes where it was stopped; --dry-run says how long it will take.
#
#   bash scripts/leaderboard.sh                    all means
#   bash scripts/leaderboard.sh 64 128             these alone
#   bash scripts/leaderboard.sh 64 --task mme      further flags go to llava leaderboard run
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" eval

means=()
while [[ "${1:-}" =~ ^[0-9]+$ ]]; do
    means+=(--mean "$1")
    shift
done
exec python -m llava.eval.leaderboard run configs/leaderboard.yaml ${RESULTS:+--results "$RESULTS"} "${means[@]}" "$@"

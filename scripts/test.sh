#!/usr/bin/env bash
# Install what the tests need and run all of them. Arguments go to pytest: bash scripts/test.sh -k fastv
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" dev

ruff check .
ruff format --check .
pyright -p .pyright.json
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile "$@"

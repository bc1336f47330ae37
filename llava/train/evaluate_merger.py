"""``python -m llava.train.evaluate_merger ...`` is ``python -m llava.experiments.evaluate_merger ...``."""

from __future__ import annotations

import runpy

if __name__ == "__main__":
    runpy.run_module("llava.experiments.evaluate_merger", run_name="__main__", alter_sys=True)

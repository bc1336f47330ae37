"""lmms-eval's own command line on local parquet, where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None,
    reason="lmms-eval is not installed: pip install 'llava-condense[harness]'",
)


def test_its_command_line_scores_as_the_task_does(tmp_path, benchmarks, embedded):
    from tests.harness.lmms_stand_in import Mme
    from tests.harness.parquet import write_mme

    task = Mme(write_mme(benchmarks / "mme", tmp_path / "lmms-lab-encoder" / "MME"))
    settings = f"pretrained={embedded},reduction=fastv@2:64,device=cpu"
    words = ["--model", "llava_condense", "--model_args", settings, "--tasks", "mme", "--batch_size", "4"]
    environment = os.environ | {"LMMS_EVAL_PLUGINS": "llava.harness", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-m", "lmms_eval", *words, "--output_path", "out", "--log_samples"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    files = list((tmp_path / "out").rglob("*_results.json"))  # it ends with 0 after an error as well
    assert len(files) == 1, (done.stdout + done.stderr)[-2000:]
    results = json.loads(files[0].read_text())
    (samples,) = (tmp_path / "out").rglob("*_samples_mme.jsonl")
    said = [json.loads(line)["filtered_resps"] for line in samples.read_text().splitlines()]
    told = results["results"]["mme"]
    assert {half: told[f"mme_{half}_score,none"] for half in ("perception", "cognition")} == task.score(said)
    assert results["throughput"]["avg_visual_tokens_entering"] == 576
    assert results["throughput"]["avg_visual_tokens_per_layer"] == pytest.approx((2 * 576 + 12 * 64) / 14)

"""Precisions compared: the shares are those of the kept sets, and every format and quantised weights really run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from llava.eval.results.samples import FILE, to_mask
from llava.experiments.precision import PLANS, agreement, main
from llava.shapes.export import export
from tests.conftest import PARITY15

PLAN = "fastv@2:64"
MODEL = Path(__file__).parents[2] / "playground/checkpoints/llava-shapes-v1"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return export("mme", tmp_path_factory.mktemp("precision") / "MME-shapes", images=1)


def folder(root, kept: list[list[int]], texts: str):
    """A run's folder as far as it is compared: what is left of each prompt's 16 patches, and a letter an answer."""
    root.mkdir()
    samples = [
        {"key": f"q{n}", "patches": 4, "stages": [{"kept": "ffff"}, {"kept": to_mask(own, 16)}]}
        for n, own in enumerate(kept)
    ]
    (root / FILE).write_text(json.dumps({"samples": samples[::-1]}))
    lines = [{"key": f"q{n}", "text": text, "correct": text == "a"} for n, text in enumerate(texts)]
    (root / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def test_the_shares_of_what_is_kept_and_answered_alike(tmp_path):
    reference = folder(tmp_path / "one", [[0, 1, 2, 3], [4, 5]], "aab")
    other = folder(tmp_path / "other", [[0, 1, 2, 9], [4, 5, 6]], "abc")
    found = agreement("fastv-4", "8bit", other, reference)
    assert (found.kept, found.lowest, found.prompts) == (0.875, 0.75, 2)
    assert (found.answers, found.accuracy) == pytest.approx((1 / 3, 1 / 3))
    same = agreement("fastv-4", "float32", reference, reference)
    assert (same.kept, same.lowest, same.answers, same.accuracy) == (1, 1, 1, pytest.approx(2 / 3))
    (other / "predictions.jsonl").write_text('{"key": "q9", "text": "a", "correct": true}\n')
    with pytest.raises(ValueError, match="were asked other questions"):
        agreement("fastv-4", "8bit", other, reference)


def test_without_plans_one_of_each_sort_is_asked(data, tmp_path):
    """All registered methods were, until one came that takes no budget, and ended the command."""
    where = ["--model-path", str(MODEL), "--data", str(data), "--results", str(tmp_path)]
    assert main([*where, "--precisions", "float32,float16", "--limit", "1", "--samples", "1"]) == 0
    asked = {row["plan"] for row in json.loads((tmp_path / "precision.json").read_text())["rows"]}
    assert len(asked) == len(PLANS)


@pytest.mark.parametrize(("precision", "least"), [("float16", 0.97), ("bfloat16", 0.9), ("8bit", 0.97), ("4bit", 0.85)])
def test_a_precision_keeps_nearly_what_full_precision_keeps(data, tmp_path, precision, least):
    if precision.endswith("bit"):
        pytest.importorskip("bitsandbytes")
    where = ["--model-path", str(MODEL), "--data", str(data), "--results", str(tmp_path)]
    flags = ["--reduction", PLAN, "--precisions", f"float32,{precision}", "--limit", "4", "--samples", "2"]
    assert main([*where, *flags]) == 0
    content = json.loads((tmp_path / "precision.json").read_text())
    reference, other = content["rows"]
    assert (
        content["reference"] == "float32" == reference["precision"] and reference["kept"] == reference["answers"] == 1
    )
    assert (other["plan"], other["precision"], other["prompts"]) == ("fastv@2-64", precision, 4)
    assert least <= other["kept"] <= 1
    model = yaml.safe_load((tmp_path / precision / "fastv@2-64/config.yaml").read_text())["model"]
    assert str(model["bits"] or model["dtype"]) == precision.removesuffix("bit")
    assert "fastv@2-64" in (tmp_path / "precision.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--precisions", "float32,flot16"], "'flot16' is none of float32, float16, bfloat16, 8bit, 4bit; did you mean 'float16'"),
        (["--precisions", "float32"], "must be two or more different ones"),
        (["--dtype", "float16"], "--dtype contradicts --precisions"),
        (["--samples", "0"], "--samples 0 must be at least 1"),
    ],
)  # fmt: skip
def test_bad_flags_are_named(data, caplog, flags, message):
    assert main(["--model-path", str(PARITY15 / "checkpoint"), "--data", str(data), *flags]) == 2
    assert message in caplog.text

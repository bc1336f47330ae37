"""``scripts/eval.py`` runs the command lines of the document that types it, with the values its configuration has."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from llava.cli.flags import plan_spec
from llava.eval.ask.plans import plans_from
from llava.eval.run import parser
from llava.model.language_model.himap_configuration_llama import LlamaConfig

SCRIPT = Path(__file__).parents[2] / "scripts" / "eval.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("eval_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "plan"),
    [
        ("--fast_v_token_selection_method max_head", "fastv@2:288,heads=max_head"),
        ("--fast_v_token_selection_method avg_all_heads", "fastv@2:288"),
        (
            "--fast_v_token_selection_method weighted_combination --fast_v_weighted_alpha 0.7",
            "fastv@2:288,heads=weighted_combination,alpha=0.7",
        ),
        ("--use-fast-v --fast-v-attention-rank=64 --fast-v-agg-layer 3", "fastv@3:64"),
        ("--no-use-fast-v --fast-v-agg-layer 3", ""),
        ("--reduction pool:64", "pool:64"),
    ],
)
def test_a_documented_command_line_is_a_plan(script, line, plan):
    given = parser().parse_args(script.completed(line.split()))
    (found,) = plans_from(plan_spec(given), LlamaConfig(num_hidden_layers=8))
    assert "+".join(map(str, found)) == plan
    assert Path(given.model_path) == script.MODEL and given.data == script.DATA


def test_what_is_given_stays_as_it_is(script):
    line = ["--model-path", "mine", "--task", "pope", "--data", "there", "--use_fast_v", "--fast_v_attention_rank", "7"]
    assert script.completed(line) == line

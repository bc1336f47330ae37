"""The shared flags: every knob, both spellings, nothing where nothing was said."""

from __future__ import annotations

from argparse import ArgumentParser

import pytest

from llava.cli.flags import add_model_flags, add_reduction_flags, model_spec, plan_spec, reduction_kwargs
from llava.cli.settings import ModelSpec, PlanSpec
from llava.model.language_model.himap_configuration_llama import LlamaConfig
from llava.model.language_model.reduction_knobs import REDUCTION_KNOBS, ReductionKnobs


@pytest.fixture
def parser():
    parser = ArgumentParser()
    add_model_flags(parser, model_path="m")
    add_reduction_flags(parser)
    return parser


def test_no_flag_no_keyword(parser):
    assert reduction_kwargs(parser.parse_args([])) == {}


@pytest.mark.parametrize("spell", [lambda name: "--" + name, lambda name: "--" + name.replace("_", "-")])
def test_every_knob_has_a_flag_of_its_type(parser, spell):
    """What a flag reads is accepted by the config's own type check."""
    for name in REDUCTION_KNOBS:
        hint = str(ReductionKnobs.__annotations__[name])
        text = [] if "bool" in hint else ["x"] if "str" in hint else ["3"]
        read = reduction_kwargs(parser.parse_args([spell(name), *text]))
        assert set(read) == {name}
        setattr(LlamaConfig(hidden_size=8, num_attention_heads=1), name, read[name])


@pytest.mark.parametrize(("text", "value"), [("64", 64), ("0.25", 0.25)])
def test_counts_and_fractions(parser, text, value):
    read = parser.parse_args(["--fast-v-attention-rank", text]).fast_v_attention_rank
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("flag", "text", "value"),
    [
        ("--fast-v-weighted-alpha", "0.7", 0.7),
        ("--fast-v-weighted-alpha", "focus", "focus"),
        ("--condensation-layers", "5,10", [5, 10]),
        ("--condensation-layers", "5", [5]),
        ("--condensation-ranks", "0.5,50", [0.5, 50]),
        ("--condensation-strategy", "fps", "fps"),
        ("--condensation-strategy", "fps,tome", ["fps", "tome"]),
        ("--custom-kept-tokens", "8", 8),
        ("--custom-kept-tokens", "64,8", [64, 8]),
    ],
)
def test_lists_are_written_with_commas(parser, flag, text, value):
    read = reduction_kwargs(parser.parse_args([flag, text]))
    assert list(read.values()) == [value]


def test_switches_have_an_opposite(parser):
    assert reduction_kwargs(parser.parse_args(["--no-use-fast-v"])) == {"use_fast_v": False}


def test_nonsense_is_refused(parser):
    with pytest.raises(SystemExit):
        parser.parse_args(["--fast-v-attention-rank", "many"])


def test_model_path_is_required_without_a_default():
    parser = ArgumentParser()
    add_model_flags(parser)
    with pytest.raises(SystemExit):
        parser.parse_args([])
    args = parser.parse_args(["--model_path", "a", "--conv-mode", "v1", "--load-4bit"])
    assert (args.model_path, args.conv_mode, args.load_4bit, args.load_8bit) == ("a", "v1", True, False)


def test_a_command_line_is_a_spec_of_its_model(parser):
    given = parser.parse_args(["--model-path", "a/b", "--conv_mode", "v1", "--device", "cuda:1", "--load-8bit"])
    assert model_spec(given, "llava_v1") == ModelSpec(
        "a/b", conv_mode="v1", usual_conv_mode="llava_v1", device="cuda:1", bits=8
    )
    with pytest.raises(ValueError, match="--load-8bit and --load-4bit are both given"):
        model_spec(parser.parse_args(["--load-8bit", "--load-4bit"]))


def test_a_command_line_is_a_spec_of_its_plans(parser):
    assert plan_spec(parser.parse_args([])) == PlanSpec()
    assert plan_spec(parser.parse_args(["--reduction", "fastv@2:64"])) == PlanSpec(("fastv@2:64",))
    assert plan_spec(parser.parse_args(["--use-fast-v"])) == PlanSpec(knobs={"use_fast_v": True})


def test_help_leaves_the_knobs_to_a_listing_of_their_own(parser, capsys):
    told = parser.format_help()
    assert "--reduction PLAN" in told and "--help-knobs" in told and "--fast-v-inplace" not in told
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--help-knobs"])
    listed = capsys.readouterr().out
    assert ended.value.code == 0
    for name in REDUCTION_KNOBS:
        if name != "reduction":
            assert name.replace("_", "-") in listed


def test_a_flag_has_one_line_in_its_first_spelling(parser):
    told = parser.format_help()
    assert "--model-path MODEL_PATH" in told and "--model_path" not in told

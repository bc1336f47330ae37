"""Any plan, however it is written, is stages or a ValueError, FileNotFoundError; and what is spelled reads back."""

from __future__ import annotations

import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava.reduction import method_names, plan_from, plan_name

settings.register_profile(
    "plans", derandomize=True, max_examples=250, deadline=2000, suppress_health_check=[HealthCheck.too_slow]
)
PLANS = settings.get_profile("plans")

OPTIONS = {
    "heads": ["avg_all_heads", "max_head", "weighted_combination", "adaptive"],
    "strategy": ["fps", "connectivity", "tome", "dpp"],
    "rows": ["text", "image"],
    "text": ["after", "all"],
    "place": ["drop", "mask", "zero_fill"],
    "positions": ["original", "compact"],
    "per": ["image", "crop"],
    "alpha": ["focus"],
}
NAMES = [*OPTIONS, "diversity", "temperature", "cover", "least", "semantic", "seed", "start", "row_normalised", "weights",
         "attention", "module", "args", "kwargs", "self", "method", "site", "layer", "keep"]  # fmt: skip

numbers = st.one_of(
    st.integers(-3, 700), st.integers(), st.floats(), st.floats(0, 1), st.sampled_from([10**30, 1e308, -0.0, 2**63])
)
scalars = st.one_of(
    numbers,
    st.booleans(),
    st.none(),
    st.text(max_size=8),
    st.sampled_from([word for words in OPTIONS.values() for word in words]),
    st.sampled_from(["features", "prompt", "pixels", "layer"]),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)
methods = st.sampled_from(method_names())
mappings = st.dictionaries(st.sampled_from(NAMES) | st.integers() | st.text(max_size=4), values, max_size=4)
stages = st.builds(lambda method, rest: {**rest, "method": method}, methods | values, mappings)
pieces = st.one_of(
    methods,
    st.sampled_from([*'@:,=+.%-"', "@2", ":64", "@2:64", ":0.25", ":25%", "+", ",", "true", "no", "1e308", "\uff16"]),
    st.builds("{}={}".format, st.sampled_from(NAMES), scalars),
    st.text(string.printable, max_size=4),
    st.text(max_size=3),
)
texts = st.lists(pieces, max_size=9).map("".join)


def check(spec: object) -> None:
    try:
        plan = plan_from(spec)
    except (ValueError, FileNotFoundError) as error:
        assert len(str(error)) < 2000
        return
    spelled = "+".join(map(str, plan))
    assert plan_from(spelled) == plan
    assert plan_name(plan) == plan_name(spelled) and "/" not in plan_name(plan)


@settings(PLANS)
@given(texts)
def test_strings(text):
    check(text)


@settings(PLANS)
@given(st.one_of(stages, st.lists(st.one_of(stages, texts, values), max_size=3), values))
def test_mappings_and_lists(spec):
    check(spec)


@settings(PLANS)
@given(st.builds("{}@{}:{},{}={}".format, methods, st.integers(1, 4), numbers, st.sampled_from(NAMES), scalars))
def test_nearly_right_strings(text):
    check(text)


valid = st.one_of(
    st.builds("fastv@2:{},alpha={},heads=weighted_combination,diversity={}".format,
              st.integers(0, 600) | st.floats(0, 1), st.floats(0, 1), st.floats(0, 1, exclude_max=True)),
    st.builds("custom_selection@3:{},temperature={},cover={}".format,
              st.integers(1, 600), st.floats(1e-6, 1e308), st.floats(0, 1, exclude_min=True)),
    st.builds("random@{}:{},seed={}".format, st.sampled_from([2, "features", "prompt"]), st.floats(0, 1),
              st.integers(0, 2**63 - 1)),
)  # fmt: skip


@settings(PLANS)
@given(valid)
def test_numbers_are_spelled_to_the_last_digit(text):
    text = text.replace("e+", "e")
    plan = plan_from(text)
    again = plan_from("+".join(map(str, plan)))
    assert again == plan and again[0].keep == plan[0].keep
    assert vars(again[0].reducer).get("temperature") == vars(plan[0].reducer).get("temperature")


YAML = st.one_of(
    st.text(max_size=40),
    st.lists(pieces | st.sampled_from(["reduction: ", "\n", "- ", "{", "}", "[", "]", "&a ", "*a", "!!int ", "method: "]), max_size=12)
    .map("".join),
    st.builds("reduction: [{{method: {}, keep: {}, {}: {}}}]".format, methods, scalars, st.sampled_from(NAMES), scalars),
)  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("plans") / "plan.yaml"


@settings(PLANS)
@given(YAML)
def test_files(file, text):
    file.write_text(text, encoding="utf-8", errors="replace")
    check(file)

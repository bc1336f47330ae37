"""Any setting of the knobs is a plan or a ValueError, whether it is given at once or afterwards."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava.model.language_model.knobs import condensation_stage_count, plan_from_config
from llava.model.language_model.reduction_knobs import METHOD_FLAGS, REDUCTION_KNOBS
from llava.reduction import check_plan, plan_from
from tests.tiny import LAYERS, tiny_config

KNOBS = settings(derandomize=True, max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
words = st.sampled_from(
    [
        "fps",
        "tome",
        "drop",
        "mask",
        "zero_fill",
        "max_head",
        "text_weighted",
        "focus",
        "after",
        "all",
        "2",
        "8",
        "",
        "fastv@2:3",
    ]
)
scalars = st.one_of(
    st.integers(-2, 30),
    st.integers(),
    st.floats(),
    st.floats(0, 1),
    st.booleans(),
    st.none(),
    words,
    st.text(max_size=5),
)
values = st.one_of(scalars, st.lists(scalars, max_size=3), st.dictionaries(st.text(max_size=6), scalars, max_size=2))
flags = st.sampled_from(METHOD_FLAGS)
knobs = st.dictionaries(st.sampled_from(REDUCTION_KNOBS), values, max_size=6)
# values of the declared kinds, in relations that may be wrong
levels = st.one_of(st.none(), st.integers(-1, LAYERS + 1), st.lists(st.integers(0, LAYERS), max_size=3))
ranks = st.one_of(
    st.none(), st.integers(-1, 40), st.floats(0, 1), st.lists(st.integers(0, 40) | st.floats(0, 1), max_size=3)
)
nearly = st.fixed_dictionaries(
    {},
    optional={
        **{name: levels for name in REDUCTION_KNOBS if name.endswith(("_layer", "_layers"))},
        **{name: ranks for name in REDUCTION_KNOBS if name.endswith(("_rank", "_ranks", "_kept_tokens"))},
        "condensation_num_heads": st.integers(-1, 9),
    },
)


def check(config) -> None:
    try:
        plan = plan_from_config(config)
        check_plan(plan, LAYERS)
        condensation_stage_count(config)
    except ValueError as error:
        assert len(str(error)) < 2000
        return
    assert plan_from("+".join(map(str, plan))) == plan


@KNOBS
@given(flags, knobs | nearly)
def test_set_afterwards(flag, knobs):
    config = tiny_config()
    try:
        setattr(config, flag, True)
        for name, value in knobs.items():
            setattr(config, name, value)
    except ValueError:
        return
    check(config)


@KNOBS
@given(flags, knobs | nearly)
def test_given_at_once(flag, knobs):
    try:
        config = tiny_config(**{flag: True, **knobs})
    except ValueError:
        return
    check(config)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"condensation_layers": 2}, "condensation_layers=2 must be list or None"),
        ({"hmap_v_attn_txt_layer": "2"}, "hmap_v_attn_txt_layer='2' must be int or None"),
        ({"condensation_num_heads": "8"}, "condensation_num_heads='8' must be int"),
        ({"cut_off_layer": "3"}, "cut_off_layer='3' must be int or None"),
        ({"reduction": 5}, "reduction=5 must be str or list or dict or None"),
        ({"use_fast_v": "no"}, "use_fast_v='no' must be bool"),
        ({"fast_v_agg_layer": True}, "fast_v_agg_layer=True must be int"),
    ],
)
def test_a_value_of_another_type_names_the_knob_and_its_types(knobs, message):
    config = tiny_config()
    with pytest.raises(ValueError, match=message):
        for name, value in knobs.items():
            setattr(config, name, value)
        plan_from_config(config)
    with pytest.raises(ValueError, match=message):
        plan_from_config(tiny_config(**knobs))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (
            {"condensation_layers": [2], "condensation_ranks": [3], "condensation_num_heads": 0},
            "condensation_num_heads=0",
        ),
        (
            {"condensation_layers": ["2"], "condensation_ranks": [3]},
            "condensation_layers: '2' must be the whole number",
        ),
        (
            {"condensation_layers": [2], "condensation_ranks": ["3"]},
            "condensation_ranks: '3' must be a count or a share",
        ),
        ({"condensation_layers": [], "condensation_ranks": []}, "no layer is given"),
    ],
)
def test_condensation_levels_that_cannot_be(knobs, message):
    with pytest.raises(ValueError, match=message):
        plan_from_config(tiny_config(use_token_condensation=True, **knobs))

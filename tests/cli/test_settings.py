"""Settings: what is out of range is named before anything is opened."""

from __future__ import annotations

import pytest

from llava.cli.settings import EvalSettings, ModelSpec, check_share

MODEL = ModelSpec("models/llava-v1.5-7b/")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"limit": 0}, "limit=0 must be at least 1"),
        ({"samples": -1}, "samples=-1 must be at least 0"),
        ({"share": (2, 2)}, "share 2 of 2 does not exist"),
        ({"share": (0, 0)}, "share 0 of 0 does not exist"),
    ],
)
def test_what_is_out_of_range_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        EvalSettings(MODEL, "mme", "data", **settings)


def test_shares_count_from_nought():
    check_share(0, 1)
    check_share(2, 3)
    with pytest.raises(ValueError, match="give 0 <= index < count"):
        check_share(-1, 3)


def test_a_model_is_named_by_its_folder():
    assert MODEL.name == "llava-v1.5-7b"
    with pytest.raises(ValueError, match="bits=3 is not supported; give 4, 8, or None"):
        ModelSpec("m", bits=3)

"""The declared range of transformers is the tested one, and another version is not met in silence."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import transformers

import llava
from llava.versions import NEWEST, OLDEST, check_transformers

ROOT = Path(__file__).parents[1]


def test_setup_declares_what_is_tested():
    declared = re.search(r'"transformers>=(\d+)\.(\d+),<(\d+)\.(\d+)"', (ROOT / "setup.py").read_text())
    low, high = map(int, declared.groups()[:2]), map(int, declared.groups()[2:])
    assert tuple(low) == OLDEST and tuple(high) == (NEWEST[0], NEWEST[1] + 1)
    pinned = re.search(r"transformers==(\d+)\.(\d+)", (ROOT / "constraints.txt").read_text())
    assert tuple(map(int, pinned.groups())) == NEWEST


def test_this_version_is_within_the_range():
    assert OLDEST <= tuple(map(int, transformers.__version__.split(".")[:2])) <= NEWEST


def test_untested_versions_are_met_with_a_word():
    with pytest.warns(UserWarning, match="5.99.0 is newer than what this package is tested on"):
        check_transformers("5.99.0")
    with pytest.raises(ImportError, match="4.57.1 is too old"):
        check_transformers("4.57.1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_transformers(f"{OLDEST[0]}.{OLDEST[1]}.3")


def test_the_public_names_resolve():
    assert all(getattr(llava, name) is not None for name in llava.__all__)
    assert set(llava.__all__) <= set(dir(llava)) and re.fullmatch(r"\d+\.\d+\.\d+", llava.__version__)
    with pytest.raises(AttributeError, match="module 'llava' has no attribute 'load_model'"):
        llava.load_model  # noqa: B018


def test_one_line_answers_about_a_picture():
    world = ROOT / "tests/data/parity_llava15"
    loaded = llava.load_pretrained_model(world / "checkpoint", device="cpu")
    dense = llava.ask(loaded, world / "image0.png", "What is it?", max_new_tokens=4)
    assert isinstance(dense, str)
    llava.ask(loaded, [world / "image0.png", world / "image1.png"], "What are they?", "fastv@1:9", max_new_tokens=2)
    assert loaded[1].model.last_visual_per_layer[1].tolist() == [18]
    assert isinstance(llava.ask(str(world / "checkpoint"), None, "Who are you?", max_new_tokens=2), str)

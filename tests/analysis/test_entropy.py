"""Entropy of rows whose entropy is known."""

from __future__ import annotations

import json
import math

import pytest
import torch

from llava.analysis.entropy import entropy, measure


def test_entropy_by_hand():
    rows = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0, 0, 0], [0.1, 0.1, 0, 0]])
    assert entropy(rows).tolist() == pytest.approx([math.log(4), 0, math.log(2)], abs=1e-6)


def test_two_heads_that_look_at_one_token_each(made_attention):
    """Each head's entropy is 0, that of their mean ln 2; the whole row, 0.5 to BOS and 0.5 to a token, has ln 2."""
    first, second = torch.zeros(4, 4), torch.zeros(4, 4)
    first[3, [0, 1]] = 0.5
    second[3, [0, 2]] = 0.5
    found = measure(made_attention(torch.stack([first, second]), bos=[0], visual=[1, 2], text=[3]))
    expected = {"picture": 0, "picture_of_mean_head": math.log(2), "whole": math.log(2), "even": math.log(2)}
    assert found == pytest.approx(expected, abs=1e-6)


def test_only_rows_after_the_picture_count(made_attention):
    """The system row would add ln 576-like noise; the picture's rows are not the words'."""
    rows = torch.zeros(1, 5, 5)
    rows[0, 1, [0, 1]] = 0.5
    rows[0, 2, 2], rows[0, 3, [2, 3]] = 1, 0.5
    rows[0, 4, [2, 3]] = torch.tensor([0.2, 0.6])
    found = measure(made_attention(rows, bos=[0], system=[1], visual=[2, 3], text=[4]))
    assert found["picture"] == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))


def test_without_a_picture_token_left_it_is_not_a_number(made_attention):
    found = measure(made_attention([[[1.0, 0], [0.5, 0.5]]], bos=[0], text=[1]))
    assert math.isnan(found["picture"]) and math.isnan(found["even"]) and found["whole"] == pytest.approx(math.log(2))


def test_command_line(analyse, tmp_path):
    assert analyse("entropy", "--output-dir", "out", "--reduction", "random@2:10+blind@5") == 0
    held = json.loads((tmp_path / "out" / "entropy.json").read_text())
    assert held["even"] == pytest.approx([math.log(576)] * 2 + [math.log(10)] * 3 + [None] * 3, abs=1e-3)
    assert all(0 < value <= most for value, most in zip(held["picture"][:5], held["even"][:5]))
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == {"entropy.png", "entropy_by_category.png"}

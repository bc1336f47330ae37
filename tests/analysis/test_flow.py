"""Shares of attention by hand and on a model, heads, and what their command lines write."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from llava.analysis.flow import SHARES, named, shares
from llava.analysis.heads import head_statistics, measure
from llava.analysis.observe import GROUPS, Observer
from llava.eval.ask.subject import Generation
from llava.reduction import plan_from
from tests.conftest import PARITY15

# BOS, a system word, two picture tokens, a word; the second head looks elsewhere
FIRST = [
    [1.0, 0, 0, 0, 0],
    [0.5, 0.5, 0, 0, 0],
    [0.2, 0.3, 0.5, 0, 0],
    [0.1, 0.1, 0.2, 0.6, 0],
    [0.1, 0.2, 0.3, 0.0, 0.4],
]
SECOND = [
    [1.0, 0, 0, 0, 0],
    [1.0, 0, 0, 0, 0],
    [0.4, 0.1, 0.5, 0, 0],
    [0.3, 0.3, 0.4, 0.0, 0],
    [0.0, 0.0, 0.1, 0.7, 0.2],
]


@pytest.fixture
def attention(made_attention):
    return made_attention([FIRST, SECOND], bos=[0], system=[1], visual=[2, 3], text=[4])


def test_shares_by_hand(attention):
    """Picture rows of head 0: to the picture (0.5 + 0.2 + 0.6) / 2, to system (0.3 + 0.1) / 2; the word of head 1: 0.1 + 0.7."""
    table = shares(attention)
    assert table.shape == (4, 4, 2)
    by_name = {name: values[0] for name, values in named(table.mean(-1)[None]).items()}
    to_visual, visual, text = (GROUPS.index(name) for name in ("visual", "visual", "text"))
    assert table[visual, to_visual] == pytest.approx([0.65, 0.45])
    assert table[visual, GROUPS.index("system")] == pytest.approx([0.2, 0.2])
    assert table[text, to_visual] == pytest.approx([0.3, 0.8])
    assert by_name["text_to_visual"] == pytest.approx(0.55)
    assert by_name["text_to_bos"] == pytest.approx(0.05)
    assert by_name["system_to_visual"] == by_name["visual_to_text"] == by_name["system_to_text"] == 0
    assert table.sum(1) == pytest.approx(np.ones((4, 2)))


def test_a_group_without_rows_has_zeros(made_attention):
    table = shares(made_attention([[[1.0, 0], [0.25, 0.75]]], bos=[0], text=[1]))
    assert table[GROUPS.index("visual")].sum() == table[GROUPS.index("system")].sum() == 0
    assert table[GROUPS.index("text"), :, 0] == pytest.approx([0.25, 0, 0, 0.75])


def test_the_strongest_head_holds_the_largest_single_entry(attention):
    """Head 0's word looks at the picture with 0.3 and 0, head 1's with 0.1 and 0.7."""
    to_picture, to_words, strongest = measure(attention)
    assert to_picture == pytest.approx([0.3, 0.8]) and to_words == pytest.approx([0.2, 0.2])
    assert strongest == 1


def test_head_statistics_by_hand():
    """Layer 0: head 2 thrice and head 0 once, entropy -(3/4 log2 3/4 + 1/4 log2 1/4); layer 1: always head 1; -1 is no head."""
    found = head_statistics(np.array([[2, 1], [2, 1], [0, 1], [2, -1]]), heads=3, top=2)
    assert found["layer_head_counts"].tolist() == [[1, 0, 3], [0, 3, 0]]
    assert found["head_frequency_total"].tolist() == [1, 3, 3]
    assert found["top_k_heads_per_layer"] == [
        [{"head": 2, "count": 3}, {"head": 0, "count": 1}],
        [{"head": 1, "count": 3}],
    ]
    assert [layer["unique_heads"] for layer in found["layer_diversity"]] == [2, 1]
    assert [layer["entropy_bits"] for layer in found["layer_diversity"]] == pytest.approx([0.811278, 0], abs=1e-5)


@pytest.mark.parametrize("plan", ["full", "fastv@3:20"])
def test_rows_of_every_group_sum_to_one_on_a_model(subject, plan):
    features = subject.encode([Image.open(PARITY15 / "image0.png").convert("RGB")]) * 2
    texts = ["What?", "Is there a dog in the picture, or a cat?"]
    observer = Observer(subject, lambda attention: (shares(attention), len(attention.columns["visual"])))
    replies = observer.answer(texts, features, plan_from(plan), Generation(1))
    assert [reply.text for reply in replies] == [
        reply.text for reply in subject.answer(texts, features, plan_from(plan), Generation(1))
    ]
    for reply in replies:
        table = np.array([layer for layer, _ in reply.layers])
        assert table.sum(2) == pytest.approx(np.ones((8, 4, 4)), abs=1e-5)
        assert [tokens for _, tokens in reply.layers] == reply.kept
        assert table[:, GROUPS.index("system"), GROUPS.index("visual")].max() == 0


def test_a_batch_is_measured_as_each_alone(subject):
    features = subject.encode([Image.open(PARITY15 / f"image{number}.png").convert("RGB") for number in range(2)])
    texts, observer = ["What?", "Is there a dog in the picture, or a cat?"], Observer(subject, shares)
    together = observer.answer(texts, features, [], Generation(1))
    for row, reply in enumerate(together):
        (alone,) = observer.answer(texts[row : row + 1], features[row : row + 1], [], Generation(1))
        assert np.array(reply.layers) == pytest.approx(np.array(alone.layers), abs=1e-5)


def test_flow_command_line(analyse, tmp_path):
    assert analyse("flow", "--output-dir", "out", "--plot-individual") == 0
    held = json.loads((tmp_path / "out" / "flow.json").read_text())
    assert held["samples"] == 2 and held["num_layers"] == 8 and set(held["shares"]) == set(SHARES)
    sums = np.array([held["shares"][f"text_to_{keys}"] for keys in GROUPS]).sum(0)
    assert sums == pytest.approx(np.ones(8), abs=1e-4)
    assert list(held["by_category"]) == ["existence"] and len(held["per_sample"][0]["text_to_visual"]) == 8
    pictures = sorted(file.name for file in (tmp_path / "out").glob("*.png"))
    assert pictures == [
        "flow.png",
        "flow_by_category.png",
        "flow_samples.png",
        "sample_existence_0001_png_1.png",
        "sample_existence_0001_png_2.png",
    ]
    for name in pictures:
        assert np.asarray(Image.open(tmp_path / "out" / name).convert("L")).std() > 5


def test_heads_command_line(analyse, tmp_path):
    assert analyse("heads", "--output-dir", "out", "--reduction", "fastv@3:20", task="scienceqa") == 0
    held = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert (held["num_samples"], held["num_layers"], held["num_heads"], held["plan"]) == (2, 8, 4, "fastv@3-20")
    assert [sum(layer) for layer in held["layer_head_counts"]] == [2] * 8
    records = json.loads((tmp_path / "out" / "records.json").read_text())
    assert [len(record["max_head_per_layer"]) for record in records] == [8, 8]
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == {"heads.png", "max_heads.png", "histogram.png"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples-per-category", "0"], "--samples-per-category 0 must be at least 1"),
        (["--num-samples", "0"], "--num-samples 0 must be at least 1"),
        (["--task", "nme"], "did you mean 'mme'"),
        (["--reduction", "fastv@9:20"], "out of range"),
        (["--conv-mode", "vicuna"], "vicuna"),
        (["--question-file", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_bad_input_ends_with_a_sentence(analyse, caplog, flags, message):
    assert analyse("flow", "--output-dir", "out", *flags) == 2
    assert message in caplog.text

"""From what a harness hands over to turns and sampling; and the table of costs."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from llava.constants import IMAGE_PLACEHOLDER
from llava.harness import questions
from llava.harness.costs import CostTable
from llava.harness.questions import dialogue, sampling_from, user_turn
from llava.serve.openai.chat import Sampling, Turn

FIRST, SECOND = (Image.new("RGB", (2, 2), colour) for colour in ("red", "blue"))


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (["What?"], "What?"),
        ([FIRST, "What?"], "What?"),
        ([FIRST, SECOND, "What?", "And why?"], "What?\nAnd why?"),
        (["Before", FIRST, "after"], f"Before\n{IMAGE_PLACEHOLDER}\nafter"),
        ([FIRST, "<image>\nWhat?"], "What?"),
        ([FIRST, SECOND, "Is <image> like <image>?"], f"Is {IMAGE_PLACEHOLDER} like {IMAGE_PLACEHOLDER}?"),
    ],
)
def test_pictures_go_in_front_unless_they_stand_between(parts, text):
    turn = user_turn(parts)
    assert turn == Turn("user", text, [part for part in parts if isinstance(part, Image.Image)])


def test_a_dialogue_has_its_system_in_front_and_ends_with_the_user():
    told = [("system", ["Be short."]), ("user", [FIRST, "What?"]), ("assistant", ["A dot."]), ("user", ["Why?"])]
    first, answer, last = dialogue(told)
    assert first == Turn("user", f"Be short.\n{IMAGE_PLACEHOLDER}\nWhat?", [FIRST])
    assert (answer, last) == (Turn("assistant", "A dot."), Turn("user", "Why?", []))
    for wrong, message in [
        (told[:3], "end with a user"),
        ([*told, told[1]], "turn 4 is of role 'user'"),
        ([told[1], ("assistant", [FIRST]), told[3]], "picture"),
        ([("user", [b"x"])], "a bytes"),
    ]:
        with pytest.raises(ValueError, match=message):
            dialogue(wrong)


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({}, (Sampling(), 1024)),
        ({"max_new_tokens": 16, "temperature": 0, "top_p": None, "num_beams": 1, "do_sample": False}, (Sampling(), 16)),
        ({"temperature": 0.2, "top_p": 0.9}, (Sampling(temperature=0.2, top_p=0.9), 1024)),
        ({"temperature": 0.2, "do_sample": False}, (Sampling(), 1024)),
        ({"until": ["\n\n", "Q:"]}, (Sampling(stop=("Q:",)), 1024)),
        ({"until": "\n"}, (Sampling(stop=("\n",)), 1024)),
    ],
)
def test_keywords_of_generate(keywords, expected, caplog):
    assert sampling_from(keywords) == expected and not caplog.records


def test_a_keyword_without_effect_is_said_once_and_a_wrong_one_refused(caplog):
    questions._warn_once.cache_clear()
    for _ in range(2):
        sampling_from({"image_aspect_ratio": "original"})
    assert [record.getMessage() for record in caplog.records] == [
        "the generation keyword image_aspect_ratio has no effect here"
    ]
    for wrong in ({"num_beams": 3}, {"temperature": -1}, {"top_p": 2.0}, {"max_new_tokens": -4}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            sampling_from(wrong)


def test_costs_by_task_and_line_by_line(tmp_path):
    file = tmp_path / "new" / "costs.jsonl"
    table = CostTable(file)
    table.add("mme", {"visual_tokens_per_layer": 64.0, "gflops": 2.0})
    table.add("mme", {"visual_tokens_per_layer": 32.0, "gflops": 4.0})
    assert table.flat() == {"visual_tokens_per_layer": 48.0, "gflops": 3.0}
    CostTable(file).add("pope", {"visual_tokens_per_layer": 8.0})
    table.add("pope", {"visual_tokens_per_layer": 8.0})
    table.add("pope", {"visual_tokens_per_layer": 9.0, "gflops": 1.0})
    assert table.flat() == {
        "mme_visual_tokens_per_layer": 48.0,
        "mme_gflops": 3.0,
        "pope_visual_tokens_per_layer": 8.5,
    }
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[2] == {"task": "pope", "visual_tokens_per_layer": 8.0} and len(lines) == 5
    assert CostTable().flat() == {}

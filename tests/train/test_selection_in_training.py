"""A reduction in training keeps what it keeps in generation: what is chosen never depends on the answer that is taught."""

from __future__ import annotations

import json

import pytest
import torch

from llava.constants import IGNORE_INDEX
from llava.reduction import reduced
from llava.shapes import world
from llava.train.data import Collator, ConversationDataset
from llava.train.merger.forward import read

PLANS = (
    "fastv@2:16",
    "fastv@2:16,heads=max_head",
    "text_weighted@2:16",
    "text_weighted@2:16,text=all",
    "himap@2:32+himap@4:16,rows=image",
    "condensation@2:16,semantic=0.5",
    "custom_selection@3:16,semantic=0.5",
    "random@2:16",
    "fastv@2:16,place=mask",
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, llava15):
    """Records of one turn and of two, with answers of several lengths, so that a batch is ragged."""
    folder = tmp_path_factory.mktemp("records")
    answers = (["a red circle at the left"], ["no", "two"], ["yes"])
    records = []
    for number, texts in enumerate(answers):
        world.render(world.make_scene(7, number)).save(folder / f"{number}.png")
        turns = []
        for place, text in enumerate(texts):
            question = "<image>\nWhat is there?" if place == 0 else "And how many?"
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": text}]
        records.append({"image": f"{number}.png", "conversations": turns})
    (folder / "records.json").write_text(json.dumps(records))
    parts = (llava15.tokenizer, llava15.image_processor, llava15.model.config)
    return ConversationDataset(folder / "records.json", folder, "v1", *parts, 2048, 576)


def kept_by_row(model) -> list[list[set[int]]]:
    """What every stage of the last pass kept of each row, as positions among the row's visual tokens."""
    return [[set(row[row >= 0].tolist()) for row in record.kept] for record in model.get_model().last_trace]


@torch.no_grad()
@pytest.mark.parametrize("plan", PLANS)
def test_a_taught_row_keeps_what_its_prompt_alone_keeps(dataset, llava15, plan):
    model = llava15.model
    items = [dataset[index] for index in range(len(dataset))]
    batch = Collator(0)(items)
    with reduced(model, plan):
        model(**batch)
        taught = kept_by_row(model)
        for row, item in enumerate(items):
            first = int((item["labels"] != IGNORE_INDEX).nonzero()[0])
            images = torch.stack(item["images"])
            model.generate(item["input_ids"][None, :first], images=images, max_new_tokens=1, do_sample=False)
            assert [stage[0] for stage in kept_by_row(model)] == [stage[row] for stage in taught]


@torch.no_grad()
@pytest.mark.parametrize("plan", PLANS)
def test_another_answer_changes_nothing_of_what_is_kept(dataset, llava15, plan):
    """Also in the forward pass of a merger's training, which calls the decoder itself."""
    model = llava15.model
    batch = Collator(0)([dataset[index] for index in range(len(dataset))])
    other = torch.where(batch["labels"] != IGNORE_INDEX, (batch["input_ids"] + 7) % 300 + 3, batch["input_ids"])
    raw = {"raw_vision_features": model.encode_raw(batch["images"])}
    kept = []
    for ids in (batch["input_ids"], other):
        with reduced(model, plan):
            read(model, {**batch, "input_ids": ids, **raw})
        kept.append(kept_by_row(model))
    assert kept[0] == kept[1]

"""Records become ids and labels as LLaVA makes them, and whatever is wrong with a record is named before it is trained on."""

from __future__ import annotations

import json
import types

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX, LETTER_ANSWER, SHORT_ANSWER
from llava.conversation import conv_templates, get_conversation
from llava.mm_utils import tokenizer_image_token
from llava.model.tokenizer import load_tokenizer
from llava.train.conversations import encode_record, turns_apart
from llava.train.data import Collator, ConversationDataset, read_records
from tests.conftest import PARITY15
from tests.sharding import make_shards

SIDE = 28


def record(*texts, image="a.png", **more):
    """A record with an image whose turns are these texts."""
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"conversations": turns, **({"image": image} if image else {}), **more}


GOOD = record("<image>\nWhat is it?", "A red ring.", "Where?", "Left, at 12 % 漢", id="one")
TEXT_ONLY = record("Count  to\n two.", "1\n\n2", image=None)


@pytest.fixture(scope="module", params=[True, False], ids=["legacy", "not legacy"])
def tokenizer(request):
    return load_tokenizer(PARITY15 / "checkpoint", legacy=request.param)


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (40, 20), (200, 10, 10)).save(tmp_path / "a.png")
    return tmp_path


def dataset(
    folder,
    *records,
    tokenizer=None,
    template="v1",
    max_length=2048,
    image_tokens=9,
    model_cfg=None,
    images=None,
    **options,
):
    (folder / "data.json").write_text(json.dumps(records))
    return ConversationDataset(
        folder / "data.json",
        images or folder,
        template,
        tokenizer or load_tokenizer(PARITY15 / "checkpoint"),
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        model_cfg or types.SimpleNamespace(image_aspect_ratio="pad"),
        max_length,
        image_tokens,
        **options,
    )


def answers(ids, labels, tokenizer):
    """What is learnt, each answer as text."""
    runs, run = [], []
    for token, label in zip(ids.tolist(), labels.tolist()):
        assert label in (token, IGNORE_INDEX)
        if label == IGNORE_INDEX:
            runs, run = runs + [run] * bool(run), []
        else:
            run.append(label)
    return [tokenizer.decode(run).strip() for run in runs + [run] * bool(run)]


# -------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("given", [GOOD, TEXT_ONLY], ids=["image", "text"])
def test_only_answers_are_learnt_with_what_ends_them(given, tokenizer):
    ids, labels = encode_record(given, "v1", tokenizer)
    texts = [turn["value"] for turn in given["conversations"]]
    assert [text.removesuffix("</s>").strip() for text in answers(ids, labels, tokenizer)] == texts[1::2]
    assert (labels == tokenizer.eos_token_id).sum() == (ids == tokenizer.eos_token_id).sum() == len(texts) // 2
    assert ids.tolist().count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id


def test_the_ids_of_v1_are_those_of_the_prompt(tokenizer):
    dialogue = get_conversation("v1")
    for i, turn in enumerate(GOOD["conversations"]):
        dialogue.append_message(dialogue.roles[i % 2], turn["value"])
    ids, _ = encode_record(GOOD, "v1", tokenizer)
    assert ids.tolist() == tokenizer_image_token(dialogue.get_prompt(), tokenizer)


def counted_labels(ids, prompt, tokenizer):
    """LLaVA's way for v1 with its legacy tokenizer: rounds tokenised apart; BOS of a round stands for its `</s>`.

    Of an instruction all but BOS and the blank behind "ASSISTANT:" is masked.
    """
    labels, place = list(ids), 1
    labels[0] = IGNORE_INDEX
    for turn in prompt.split("</s>")[:-1]:
        instruction = turn.split(" ASSISTANT: ")[0] + " ASSISTANT: "
        masked = len(tokenizer_image_token(instruction, tokenizer)) - 2
        labels[place : place + masked] = [IGNORE_INDEX] * masked
        place += len(tokenizer_image_token(turn, tokenizer))
    assert place == len(ids)
    return labels


def test_labels_of_v1_are_those_that_llava_counts():
    tokenizer = load_tokenizer(PARITY15 / "checkpoint")
    for given in (GOOD, TEXT_ONLY, record("<image>\nA?", "Yes", "B?", "No", "C?", "a, b")):
        dialogue = get_conversation("v1")
        for i, turn in enumerate(given["conversations"]):
            dialogue.append_message(dialogue.roles[i % 2], turn["value"])
        ids, labels = encode_record(given, "v1", tokenizer)
        assert labels.tolist() == counted_labels(ids.tolist(), dialogue.get_prompt(), tokenizer)


def test_plain_is_image_and_caption_alone(tokenizer):
    ids, labels = encode_record(record("Describe it.\n<image>", "A ring."), "plain", tokenizer)
    caption = tokenizer("A ring.\n").input_ids[1:]
    assert ids.tolist() == [tokenizer.bos_token_id, IMAGE_TOKEN_INDEX, *caption]
    assert labels.tolist() == [IGNORE_INDEX, IGNORE_INDEX, *caption]


@pytest.mark.parametrize("name", [name for name in conv_templates if "plain" not in name])
def test_every_template_learns_its_answers(name, tokenizer):
    ids, labels = encode_record(GOOD, name, tokenizer)
    end = get_conversation(name).stop_string
    learnt = answers(ids, labels, tokenizer)
    assert len(learnt) == 2 and learnt[0].startswith("A red ring.") and learnt[1].startswith("Left, at 12 % 漢")
    assert all(text.endswith("</s>" if end in ("<s>", "") else end) for text in learnt)
    assert (ids == IMAGE_TOKEN_INDEX).sum() == 1


def test_an_image_stands_in_front_of_its_question(tokenizer):
    inside, marked = record("What <image> is?", "Yes"), record("<image>\nWhat  is?", "Yes")
    assert encode_record(inside, "v1", tokenizer)[0].tolist() == encode_record(marked, "v1", tokenizer)[0].tolist()


def test_marks_around_an_image():
    tokenizer = load_tokenizer(PARITY15 / "checkpoint")
    tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    ids, labels = encode_record(GOOD, "v1", tokenizer, image_marks=True)
    place = ids.tolist().index(IMAGE_TOKEN_INDEX)
    assert tokenizer.convert_ids_to_tokens([ids[place - 1].item(), ids[place + 1].item()]) == ["<im_start>", "<im_end>"]
    assert len(answers(ids, labels, tokenizer)) == 2


def test_a_token_that_is_not_in_the_prompt_raises(tokenizer, monkeypatch):
    monkeypatch.setattr(
        "llava.train.conversations.tokenizer_image_token", lambda prompt, _: tokenizer(prompt + "x").input_ids
    )
    with pytest.raises(ValueError, match="the tokenizer reads 'x' where the prompt has ''"):
        encode_record(TEXT_ONLY, "v1", tokenizer)
    monkeypatch.setattr(
        "llava.train.conversations.tokenizer_image_token", lambda prompt, _: tokenizer(prompt[:-5]).input_ids
    )
    with pytest.raises(ValueError, match="leaves out the end of the prompt"):
        encode_record(TEXT_ONLY, "v1", tokenizer)


# ------------------------------------------------------------------------------------------------------- what is wrong

BAD = {
    "no JSON object": "a line",
    "has no conversations": {"id": "x", "image": "a.png"},
    "turn 1 is from 'gpt'": {"conversations": [{"from": "gpt", "value": "Hello"}]},
    "turn 2 is from 'human'": {"conversations": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}]},
    r"turn 2 \(gpt\) has no text": record("a", " ", image=None),
    r"turn 2 \(gpt\) has an <image>": record("a", "<image>", image=None),
    "ends with a question": record("<image>\na", "b", "c"),
    "has 1 <image> in its questions but 0 picture files": record("<image>\na", "b", image=None),
    "has 0 <image> in its questions but 1 picture files": record("a", "b"),
    "image is 7": record("<image>\na", "b", image=7),
    r"image is \[7\]": record("<image>\na", "b", image=[7]),
    "image file .*missing.png' does not exist": record("<image>\na", "b", image="missing.png"),
    "is [0-9]{5} positions long": record("<image>\n" + "long " * 2048, "b"),
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_record_is_named_or_skipped(message, folder, caplog):
    with pytest.raises(ValueError, match=rf"1 of 3 records .*--skip_bad_records(.|\n)*data.json record 2.*{message}"):
        dataset(folder, GOOD, BAD[message], TEXT_ONLY)
    kept = dataset(folder, GOOD, BAD[message], TEXT_ONLY, skip_bad=True)
    assert len(kept) == 2 and len(kept.skipped) == 1 and "1 of 3 records are skipped" in caplog.text
    assert kept.has_image == [True, False]
    with pytest.raises(ValueError, match="none of the 1 records"):
        dataset(folder, BAD[message], skip_bad=True)


def test_a_record_is_named_by_its_id_and_many_are_counted(folder):
    bad = [record("a", "", image=None, id=f"n{i}") for i in range(14)]
    with pytest.raises(ValueError, match=r"record 1 \(id 'n0'\)(.|\n)*record 10 (.|\n)*and 4 more") as raised:
        dataset(folder, *bad)
    assert "record 11" not in str(raised.value)


def test_a_broken_line_is_a_bad_record(folder):
    file = folder / "data.jsonl"
    file.write_text(json.dumps(GOOD) + "\n{cut sh\n\n")
    assert read_records(file) == [GOOD, "{cut sh"]
    (folder / "cut.json").write_text("[{")
    with pytest.raises(ValueError, match="cut.json:1 is not JSON: .*; give a JSON list"):
        read_records(folder / "cut.json")
    (folder / "none.json").write_text("[]")
    with pytest.raises(ValueError, match="none.json holds no records"):
        read_records(folder / "none.json")
    with pytest.raises(FileNotFoundError, match="data_path=.*gone.json"):
        read_records(folder / "gone.json")


def test_records_without_a_picture_where_each_needs_one(folder):
    with pytest.raises(ValueError, match="record 2: has no image, but only the projector is trained"):
        dataset(folder, GOOD, TEXT_ONLY, images_required=True)
    with pytest.raises(ValueError, match="record 1.*does not fit the plain template"):
        dataset(folder, GOOD, template="plain")


def test_a_damaged_picture_is_found_when_it_is_read(folder, caplog):
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:60])
    broken = record("<image>\na", "b", image="b.png", id="two")
    with pytest.raises(ValueError, match=r"record 1 \(id 'two'\): image .*b.png' cannot be read"):
        dataset(folder, broken, GOOD)[0]
    items = dataset(folder, broken, GOOD, skip_bad=True)
    assert items[0]["input_ids"].tolist() == items[1]["input_ids"].tolist()
    assert "record 1 (id 'two')" in caplog.text and "stands in" in caplog.text
    with pytest.raises(ValueError, match="no picture of its 1 records can be read"):
        dataset(folder, broken, skip_bad=True)[0]


# ------------------------------------------------------------------------------------------------------------- lengths


def test_the_cheap_check_of_lengths_agrees_with_the_exact_one(folder):
    ids, _ = encode_record(GOOD, "v1", load_tokenizer(PARITY15 / "checkpoint"))
    exact = len(ids) - 1 + 9
    for lazy in (True, False):
        assert len(dataset(folder, GOOD, max_length=exact, lazy=lazy)) == 1
        with pytest.raises(ValueError, match=f"is {exact} positions long.*model_max_length={exact - 1}"):
            dataset(folder, GOOD, max_length=exact - 1, lazy=lazy)


def test_a_long_record_is_cut_where_asked(folder):
    whole = dataset(folder, GOOD)[0]
    ids, labels = whole["input_ids"], whole["labels"]
    cut = dataset(folder, GOOD, max_length=len(ids) + 8 - 3, cut_long=True)[0]
    assert cut["input_ids"].tolist() == ids[:-3].tolist() and cut["labels"].tolist() == labels[:-3].tolist()
    with pytest.raises(ValueError, match="it would lose an image or every answer"):
        dataset(folder, GOOD, max_length=60, cut_long=True)


def test_pictures_may_take_positions_by_their_size(folder):
    seen = []
    dataset(folder, GOOD, image_tokens=lambda size: seen.append(size) or 3)
    assert set(seen) == {(40, 20)}
    with pytest.raises(ValueError, match="positions long"):
        dataset(folder, GOOD, image_tokens=lambda size: 2048)


# ------------------------------------------------------------------------------------------------------------- batches


def test_items_and_batches(folder):
    items = dataset(folder, GOOD, TEXT_ONLY, lazy=False)
    assert items[0]["images"][0].shape == (3, SIDE, SIDE) and items[0]["image_sizes"] == [(40, 20)]
    assert items[1]["images"] == [] and items.has_image == [True, False] and items.lengths[0] > items.lengths[1]
    assert [len(item["images"]) for item in items] == [1, 0]  # and no further
    batch = Collator(pad_token_id=0)([items[0], items[1]])
    lengths = [len(items[i]["input_ids"]) for i in (0, 1)]
    assert batch["attention_mask"].sum(1).tolist() == lengths and batch["attention_mask"].dtype == torch.bool
    assert batch["labels"][1, lengths[1] :].eq(IGNORE_INDEX).all() and batch["images"].shape == (1, 3, SIDE, SIDE)
    assert batch["image_sizes"] == [(40, 20)] and "images" not in Collator(0)([items[1]])


def test_a_padding_id_in_the_text_is_no_padding():
    item = {"input_ids": torch.tensor([1, 0, 5]), "labels": torch.tensor([-100, 0, 5]), "images": [], "image_sizes": []}
    assert Collator(pad_token_id=0)([item])["attention_mask"].all()


def test_stacks_of_crops_stay_a_list():
    item = {"input_ids": torch.ones(2), "labels": torch.ones(2), "image_sizes": [(1, 1)] * 2}
    crops = [torch.zeros(3, 3, 4, 4), torch.zeros(5, 3, 4, 4)]
    assert Collator(0)([item | {"images": crops}])["images"] is not crops
    assert [len(image) for image in Collator(0)([item | {"images": crops}])["images"]] == [3, 5]


@pytest.mark.parametrize("form", [SHORT_ANSWER, LETTER_ANSWER])
def test_questions_apart_all_ask_for_the_form_that_the_first_asks_for(form):
    split = turns_apart(
        record(f"<image>\nIs it red?\n{form}", "Yes", "And\nblue?", "No", f"What?\n{form}", "A", image="a.png")
    )
    asked = [part["conversations"][0]["value"] for part in split]
    assert asked == [f"<image>\n{question}\n{form}" for question in ("Is it red?", "And\nblue?", "What?")]
    assert [part["conversations"][1]["value"] for part in split] == ["Yes", "No", "A"]
    plain = turns_apart(record("<image>\nIs it red?", "Yes", "And blue?", "No", image="a.png"))
    assert [part["conversations"][0]["value"] for part in plain] == ["<image>\nIs it red?", "<image>\nAnd blue?"]


# -------------------------------------------------------------------------------------------------------------- shards


def test_shards_give_the_tensors_of_the_folder(folder):
    root = folder / "images"
    names = ["coco/b.png", "coco/c.png", "d.png"]
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((30 + number, 20), 50).convert("RGB").save(root / name)
    records = [record("<image>\nWhat?", "Noise.", image=name) for name in names] + [TEXT_ONLY]
    shards = make_shards(root, [root / name for name in names], folder / "shards/s-{}.tar", 2)
    of_folder = dataset(folder, *records, images=root)
    for images in (shards, folder / "shards"):
        of_shards = dataset(folder, *records, images=images, image_tokens=lambda size: size[0])
        loaded = list(DataLoader(of_shards, batch_size=None, num_workers=2, collate_fn=dict))
        assert of_shards.lengths == of_folder.lengths
        for one, other in zip(loaded, of_folder, strict=True):
            assert one["image_sizes"] == other["image_sizes"]
            for key in ("input_ids", "labels", "images"):
                assert all(map(torch.equal, one[key], other[key]))
    gone = record("<image>\na", "b", image="coco/gone.png", id="g")
    for skip_bad in (False, True):
        with pytest.raises(
            ValueError, match=r"record 1 \(id 'g'\): picture 'coco/gone.png' is in none of the 2 shards"
        ):
            dataset(folder, gone, images=shards, skip_bad=skip_bad)

"""The refinement: it asks as the benchmarks do, leans to no answer, and continues from a checkpoint, stopped or not."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from transformers import AutoTokenizer

from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import get_conversation
from llava.eval.ask.subject import prompt_ids
from llava.eval.scoring.ask_scienceqa import questions as science_questions
from llava.eval.tasks.mme import Mme
from llava.eval.tasks.scienceqa import ScienceQA
from llava.eval.tasks.textvqa import TextVqa
from llava.mm_utils import tokenizer_image_token
from llava.model.language_model.llava_llama import LlavaConfig
from llava.shapes import train
from llava.shapes.checkpoint import TOWER_FOLDER, export, load
from llava.shapes.export import export as draw
from llava.shapes.following import train_language_model
from llava.shapes.language import build_language_model, build_projector
from llava.shapes.lessons import FORMS, Phase, Question, draw_questions
from llava.shapes.packing import Packer, cache_pictures, checksum
from llava.shapes.tower import build_tower
from llava.shapes.world import make_scene

CHECKPOINT = Path(__file__).parents[2] / "playground" / "checkpoints" / "llava-shapes-v1"
TOKENIZER = sentencepiece.SentencePieceProcessor(model_file=str(CHECKPOINT / "tokenizer.model"))
WIDTH = 64
TINY = [Phase(3, 2, 40, 1e-3, 2, 4, 0.1, 0.2, 0.4, 0.7, yes_or_no_share=0.5, bare_letter_share=0.3)]


@pytest.fixture(scope="module")
def drawn() -> list[Question]:
    """What the refinement asks about 600 pictures."""
    phase = dataclasses.replace(train.REFINEMENT[-1], questions=8)
    return [one for n in range(600) for one in draw_questions(make_scene(6, n), np.random.default_rng(n), phase)]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> dict[str, list[str]]:
    """The prompts of the documented commands, by the form they should have in training."""
    folder = tmp_path_factory.mktemp("drawn")
    mme, science = draw("mme", folder / "mme", images=2), draw("scienceqa", folder / "science", images=12)
    tasks = {
        "short": Mme(mme),
        "both": Mme(mme / "MME_test.json"),
        "letter": ScienceQA(science / "himap-inference-MCQ.json"),
        "read": TextVqa(draw("textvqa", folder / "textvqa", images=3)),
    }
    asked = {form: [task.prompt(example) for example in task.examples] for form, task in tasks.items()}
    asked["bare letter"] = [line["text"] for _, line in science_questions(science / "llava_test_CQM-A.json")]
    single = [line["text"] for _, line in science_questions(science / "llava_test_CQM-A.json", letter_alone=True)]
    assert single == asked["letter"]
    return asked


def shape(text: str) -> str:
    """What is left of a prompt without its question, its choices, and how many these are."""
    text = re.sub(r"token: \w", "token: TOKEN", text)
    text = re.sub(r"(^|\n)(?!Context|Answer|Reference|[A-E]\. )[A-Z][^?\n]*[?]", r"\1QUESTION", text)
    return re.sub(r"(\n[A-E]\. \w+)+", "\nCHOICES", text)


def test_it_is_asked_as_the_documented_commands_ask(drawn, prompts):
    for form, asked in prompts.items():
        learned = Counter(shape(one.text) for one in drawn if one.form == form)
        assert len({shape(text) for text in asked}) == 1
        share = learned[shape(asked[0])] / sum(learned.values())
        assert share > 0.6, f"{form}: {learned}"


def test_prompts_are_the_template_id_for_id(drawn, prompts):
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT, use_fast=False)
    packer = Packer(TOKENIZER, seed=0)
    for text in {*(one.text for one in drawn[:200]), *(text for asked in prompts.values() for text in asked)}:
        real = prompt_ids(tokenizer, LlavaConfig(), "vicuna_v1", text)
        assert [*packer.prompt, IMAGE_TOKEN_INDEX, *packer.asked(text)] == real
    for one in {one.answer: one for one in drawn}.values():
        talk = get_conversation("vicuna_v1")
        talk.append_message(talk.roles[0], f"<image>\n{one.text}")
        talk.append_message(talk.roles[1], one.answer)
        whole = tokenizer_image_token(talk.get_prompt(), tokenizer)
        assert [*packer.prompt, IMAGE_TOKEN_INDEX, *packer.asked(one.text), *packer.replied(one.answer)] == whole


def test_option_letters_are_single_pieces_and_come_back_from_generation(drawn):
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT, use_fast=False)
    for letter in "ABCDE":
        first, *end = Packer(TOKENIZER, seed=0).replied(letter)
        assert end == [tokenizer.eos_token_id] and tokenizer.decode([first]).strip() == letter


def test_every_choice_is_taught_its_own_letter(drawn):
    packer, pieces = Packer(TOKENIZER, seed=0), TOKENIZER
    for one in drawn[:400]:
        ids, choices = packer.asked(one.text), re.findall(r"\n([A-E])\. (\w+)", one.text)
        options = packer.options(ids)
        taught = [
            (pieces.decode([ids[at]]).strip(), pieces.decode([to])) for at, to in enumerate(options) if to != -100
        ]
        assert len(options) == len(ids) and taught == [(choice, letter) for letter, choice in choices]


def test_the_model_is_taught_to_look_at_the_choice_that_equals_the_fact(small, tmp_path):
    """The taught place holds the fact's own word and answers with the letter that is right."""
    packer, phase = Packer(TOKENIZER, seed=0), dataclasses.replace(TINY[0], questions=20, yes_no_share=0.0)
    data = packer.batch(cache_pictures(load(small)[0], tmp_path, 2, seed=8), 0, phase)
    asked = (data["choices"] >= 0).nonzero().tolist()
    for picture, place in asked:
        choice = int(data["choices"][picture, place])
        said, fact = (int(data[name][picture, at]) for name, at in (("texts", choice), ("facts", place)))
        assert TOKENIZER.decode([said]).strip() == TOKENIZER.decode([fact])
        assert data["options"][picture, choice] == data["targets"][picture, place]
    assert len(asked) == int((data["forms"] >= FORMS.index("letter")).sum()) > 15


def test_no_wording_leans_to_an_answer(drawn):
    counts = Counter((one.form, one.answer) for one in drawn)
    for form in ("bare", "yes or no", "short", "both"):
        yes, no = counts[form, "Yes"], counts[form, "No"]
        assert min(yes, no) > 70 and abs(yes - no) < 3 * (yes + no) ** 0.5 / 2
    for form in ("letter", "bare letter"):
        last = Counter(one.answer for one in drawn if one.form == form and "\nD. " in one.text)
        assert set(last) == set("ABCD") and max(last.values()) < 1.6 * min(last.values())
    assert {one.form for one in drawn} == set(FORMS)


def test_a_pair_that_is_cut_loses_its_yes_as_often_as_its_no():
    phase = dataclasses.replace(train.REFINEMENT[0], questions=1, caption_share=0.0, open_share=0.0, yes_no_share=1.0)
    answers = [draw_questions(make_scene(5, n), np.random.default_rng(n), phase)[0].answer for n in range(200)]
    assert 75 < answers.count("Yes") < 125


def test_the_curriculum_before_it_is_asked_as_ever():
    """Shares of the refinement that a phase does not have draw nothing, so an older phase asks what it asked."""
    old = Phase(1, 1, 1, 1.0, 1, 60, 0.0, 0.1, 0.6, 0.8)
    asked = draw_questions(make_scene(3, 1), np.random.default_rng(0), old)
    assert not {one.form for one in asked} & {"yes or no", "both", "bare letter"}
    firsts = [one.answer for one in asked if one.answer in ("Yes", "No")][::2]
    assert set(firsts) == {"Yes"}
    other = draw_questions(
        make_scene(3, 1), np.random.default_rng(0), dataclasses.replace(old, yes_or_no_share=0.5, bare_letter_share=0.5)
    )
    assert {"both", "bare letter"} <= {one.form for one in other}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A checkpoint of two layers with random weights."""
    folder = tmp_path_factory.mktemp("small") / "llava-small"
    torch.manual_seed(0)
    model, projector = build_language_model(TOKENIZER.vocab_size(), 2), build_projector(WIDTH)
    export(build_tower(WIDTH, 2).eval(), projector, model, CHECKPOINT / "tokenizer.model", folder)
    return folder


def test_a_checkpoint_is_read_as_it_was_written(small, tmp_path):
    tower, tokenizer, model, projector = load(small)
    assert tokenizer.vocab_size() == TOKENIZER.vocab_size()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {weight.dtype for weight in [*model.parameters(), *tower.parameters()]} == {torch.float32}
    export(tower, projector, model, small / "tokenizer.model", tmp_path / "again")
    for name in ("model.safetensors", "config.json", f"{TOWER_FOLDER}/model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (small / name).read_bytes()


def refine(monkeypatch, start: Path, work: Path, output: Path, stops: list[int] | None = None) -> int:
    """The command with phases of three steps in all; a stop ends the training with an error, as a kill would."""
    monkeypatch.setattr(train, "REFINEMENT", TINY)
    monkeypatch.setattr(train, "REFINED_PICTURES", 4)
    for stop in stops or []:
        tower, tokenizer, model, projector = load(start)
        work.mkdir(exist_ok=True)
        pictures = cache_pictures(tower, work, 4, train.REFINED_SEED)
        train_language_model(
            pictures, tokenizer, work, TINY, train.REFINEMENT_SEED, stop, (model, projector), "refinement"
        )
    return train.main(["--start", str(start), "--work", str(work), "--output", str(output)])


def test_it_continues_from_the_checkpoint_and_stopped_ends_as_unbroken(small, tmp_path, monkeypatch):
    assert refine(monkeypatch, small, tmp_path / "a", tmp_path / "unbroken") == 0
    assert refine(monkeypatch, small, tmp_path / "b", tmp_path / "stopped", stops=[1, 2]) == 0
    (_, _, before, _), (_, _, one, _), (_, _, other, _) = map(
        load, (small, tmp_path / "unbroken", tmp_path / "stopped")
    )
    for (name, old), new, again in zip(before.named_parameters(), one.parameters(), other.parameters()):
        torch.testing.assert_close(new, again, rtol=0, atol=1e-3, msg=name)
        assert (new - old).abs().max() < 0.02  # three steps away from where it started
    assert checksum(before) != checksum(one)


def test_states_and_features_of_other_weights_are_not_taken(small, tmp_path, monkeypatch, caplog):
    work = tmp_path / "work"
    assert refine(monkeypatch, small, work, tmp_path / "first") == 0
    before = np.load(work / f"features-{train.REFINED_SEED}-4.npy")
    tower, _, model, projector = load(small)
    with torch.no_grad():
        for weight in (*tower.parameters(), *model.parameters()):
            weight *= 1.5
    export(tower, projector, model, small / "tokenizer.model", tmp_path / "other")
    assert refine(monkeypatch, tmp_path / "other", work, tmp_path / "second") == 2
    assert "continues from weights" in caplog.text and not (tmp_path / "second").exists()
    assert not np.array_equal(np.load(work / f"features-{train.REFINED_SEED}-4.npy"), before)


def test_a_start_that_is_no_embedded_model_is_named(small, tmp_path, caplog):
    given = ["--work", str(tmp_path / "work"), "--output", str(tmp_path / "out"), "--start"]
    assert train.main([*given, str(tmp_path)]) == 2
    assert f"{tmp_path / 'tokenizer.model'}" in caplog.text
    _, _, model, projector = load(small)
    export(build_tower(WIDTH, 2), projector, model, small / "tokenizer.model", tmp_path / "cut")
    config = tmp_path / "cut" / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    assert train.main([*given, str(tmp_path / "cut")]) == 2
    assert "architecture" in caplog.text

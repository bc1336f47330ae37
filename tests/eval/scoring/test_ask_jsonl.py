"""LLaVA's answers files: the fields, the order, chunks, resuming, and the model behind them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llava.cli.settings import ModelSpec
from llava.eval import model_vqa, model_vqa_loader
from llava.eval.ask.opening import Checkpoint
from llava.eval.scoring import ask_jsonl
from llava.eval.scoring.answers_file import chunk
from llava.shapes.export import export
from tests.conftest import PARITY15
from tests.eval.stubs import StubSubject

CHECKPOINT = PARITY15 / "checkpoint"
FIELDS = ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return export("llava", tmp_path_factory.mktemp("data") / "llava", images=3) / "images"


@pytest.fixture
def questions(tmp_path) -> Path:
    """Five about three pictures, of growing and falling length, and one about none; ids are numbers and words."""
    asked = [(7, 3), (8, 1), ("nine", 2), (10, 1), (11, 3), ("last", None)]
    lines = [{"question_id": name, "text": f"{'why ' * (5 - at)}{at}?"} for at, (name, _) in enumerate(asked)]
    for line, (_, picture) in zip(lines, asked):
        if picture:
            line["image"] = f"{picture:06d}.png"
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def stub(monkeypatch) -> StubSubject:
    """Repeats the end of the question; stands in for the model, which is not loaded."""
    subject = StubSubject(lambda text: text[-2:])
    monkeypatch.setattr(Checkpoint, "subject", lambda checkpoint: subject)
    return subject


def command(questions: Path, pictures: Path, *more: str, checkpoint: Path = CHECKPOINT) -> list[str]:
    answers = questions.with_name("deep") / "answers.jsonl"
    given = ["--model-path", checkpoint, "--question-file", questions, "--image-folder", pictures]
    return [*map(str, given), "--answers-file", str(answers), "--conv-mode", "vicuna_v1", *more]


def read(questions: Path) -> list[dict]:
    return [json.loads(line) for line in (questions.with_name("deep") / "answers.jsonl").read_text().splitlines()]


def test_lines_are_llavas_in_the_order_of_the_questions(questions, pictures, stub):
    assert model_vqa_loader.main(command(questions, pictures, "--batch-size", "2")) == 0
    found = read(questions)
    assert [list(line) for line in found] == [FIELDS] * 6
    assert [line["question_id"] for line in found] == [7, 8, "nine", 10, 11, "last"]
    assert [line["text"] for line in found] == ["0?", "1?", "2?", "3?", "4?", "5?"]
    assert found[0]["prompt"] == "why why why why why 0?" and found[0]["model_id"] == "checkpoint"
    assert len({line["answer_id"] for line in found}) == 6
    assert found[0]["metadata"]["kept"] == [576, 576] and found[0]["metadata"]["seconds"] >= 0
    assert len(stub.encoded) == 3 and max(stub.batches) == 2


def test_the_same_command_again_changes_nothing(questions, pictures, stub):
    model_vqa_loader.main(command(questions, pictures))
    before = read(questions)
    assert model_vqa_loader.main(command(questions, pictures)) == 0
    assert read(questions) == before and len(stub.asked) == 6


def test_a_stopped_command_goes_on(questions, pictures, stub):
    stub.stop_at = 3
    assert model_vqa_loader.main(command(questions, pictures, "--batch-size", "1")) == 130
    assert not (questions.with_name("deep") / "answers.jsonl").exists()
    stub.stop_at = None
    assert model_vqa_loader.main(command(questions, pictures, "--batch-size", "1")) == 0
    assert len(stub.asked) == 6
    assert [line["text"] for line in read(questions)] == ["0?", "1?", "2?", "3?", "4?", "5?"]


@pytest.mark.parametrize("other", [["--reduction", "fastv@2:4"], ["--max-new-tokens", "7"], ["--temperature", "0"]])
def test_answers_of_other_settings_are_not_mixed(questions, pictures, stub, caplog, other):
    model_vqa_loader.main(command(questions, pictures))
    before = read(questions)
    assert model_vqa_loader.main(command(questions, pictures, *other)) == 2
    assert "another configuration" in caplog.text and read(questions) == before


def test_other_questions_under_the_same_name_are_not_mixed(questions, pictures, stub, caplog):
    model_vqa_loader.main(command(questions, pictures))
    questions.write_text(questions.read_text().replace("why", "how"))
    assert model_vqa_loader.main(command(questions, pictures)) == 2
    assert "task.fingerprint" in caplog.text


def test_chunks_together_are_the_whole_and_an_exhausted_one_is_empty(questions, pictures, stub):
    """Six questions in four chunks: two, two, two, none."""
    found = []
    for number in range(4):
        folder = questions.with_name(f"chunk{number}")
        folder.mkdir()
        asked = Path(shutil.copy(questions, folder))
        assert model_vqa_loader.main(command(asked, pictures, "--num-chunks", "4", "--chunk-idx", str(number))) == 0
        found.append([line["text"] for line in read(asked)])
    assert found == [["0?", "1?"], ["2?", "3?"], ["4?", "5?"], []]


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [5]), (2, [3, 2]), (3, [2, 2, 1]), (4, [2, 2, 1, 0]), (7, [1, 1, 1, 1, 1, 0, 0])]
)
def test_chunk_sizes(count, sizes):
    chunks = [chunk("abcde", count, number) for number in range(count)]
    assert [len(one) for one in chunks] == sizes and sum(chunks, []) == list("abcde")


def test_an_unreadable_picture_fails_its_questions_only(questions, pictures, tmp_path, stub, caplog):
    torn = Path(shutil.copytree(pictures, tmp_path / "torn"))
    (torn / "000001.png").write_bytes(b"no picture")
    assert model_vqa_loader.main(command(questions, torn)) == 0
    found = read(questions)
    assert [line["text"] for line in found] == ["0?", "", "2?", "", "4?", "5?"]
    assert "000001.png" in found[1]["metadata"]["error"] and "2 questions failed" in caplog.text


@pytest.mark.parametrize(
    ("more", "spoil", "message"),
    [
        (["--batch-size", "0"], None, "batch_size=0 must be at least 1"),
        (["--chunk-idx", "1"], None, "--chunk-idx 1 of --num-chunks 1 is no chunk"),
        (["--num_beams", "0"], None, "num_beams=0"),
        (["--conv-mode", "vicunia"], None, "template 'vicunia' is unknown"),
        (["--reduction", "fastv@2"], None, "keep"),
        (["--reduction", "fastv@2:4", "--use-fast-v"], None, "both given"),
        ([], "", "holds no question"),
        ([], '{"question_id": 1}\n', "asked.jsonl:1 lacks text"),
        ([], '{"question_id": 1, "text": 5}\n', "asked.jsonl:1: text=5"),
        ([], "\n{]\n", "asked.jsonl:2 is not JSON"),
    ],
)
def test_bad_input_is_named(questions, pictures, stub, caplog, more, spoil, message):
    if spoil is not None:
        questions.write_text(spoil)
    assert model_vqa_loader.main(command(questions, pictures, *more)) == 2
    assert message in caplog.text and not stub.asked


def test_defaults_are_llavas():
    for flags, tokens in ((model_vqa_loader.parser(), 128), (model_vqa.parser(), 1024)):
        given = flags.parse_args(["--model_path", "m", "--question_file", "q.jsonl"])
        assert (given.conv_mode, given.temperature, given.max_new_tokens) == (None, 0.2, tokens)
        assert (given.num_chunks, given.chunk_idx, given.top_p, given.num_beams) == (1, 0, None, 1)
        assert given.answers_file == Path("answer.jsonl")


@pytest.mark.parametrize(
    ("model", "asked", "used"),
    [
        ("llava-7b-plain", "v1", "v1_mmtag"),
        ("llava-7b-plain-finetune", "v1", "v1"),
        ("llava-7b-plain", "v0_mmtag", "v0_mmtag"),
        ("llava-7b", "v1", "v1"),
    ],
)
def test_a_pretrained_projector_is_asked_with_its_template(model, asked, used):
    spec = ModelSpec(f"/models/{model}", conv_mode=asked, usual_conv_mode="llava_v1")
    assert ask_jsonl.with_pretraining_template(spec).conv_mode == used


def test_a_pretrained_projector_that_names_its_template_keeps_it():
    spec = ask_jsonl.with_pretraining_template(ModelSpec("/models/llava-plain", usual_conv_mode="llava_v1"))
    assert (spec.conv_mode, spec.usual_conv_mode) == (None, "v1_mmtag")


def test_failed_questions_are_asked_again_by_the_same_command(questions, pictures, tmp_path, stub):
    """A picture was missing, a disk was away: what was answered stays, and only the rest is asked."""
    torn = Path(shutil.copytree(pictures, tmp_path / "torn"))
    (torn / "000001.png").unlink()
    assert model_vqa_loader.main(command(questions, torn)) == 0
    before = read(questions)
    assert [line["text"] for line in before] == ["0?", "", "2?", "", "4?", "5?"]
    shutil.copy(pictures / "000001.png", torn)
    stub.asked.clear()
    assert model_vqa_loader.main(command(questions, torn, "--no-retry-failed")) == 0
    assert read(questions) == before and not stub.asked
    assert model_vqa_loader.main(command(questions, torn)) == 0
    after = read(questions)
    assert [line["text"] for line in after] == ["0?", "1?", "2?", "3?", "4?", "5?"] and len(stub.asked) == 2
    assert [line["answer_id"] for line in after][::2] == [line["answer_id"] for line in before][::2]
    assert not any("error" in line["metadata"] for line in after)


def test_the_model_itself_answers_the_same_in_any_batch_and_under_any_spelling(questions, pictures):
    """A tiny LLaVA in its published layout: batches, beams' default and both spellings of a reduction agree."""
    found = []
    for number, more in enumerate(
        (
            ["--batch-size", "1", "--reduction", "fastv@2:4"],
            ["--batch-size", "6", "--use_fast_v", "--fast_v_attention_rank", "4", "--fast-v-agg-layer", "2"],
        )
    ):
        folder = questions.with_name(f"run{number}")
        folder.mkdir()
        asked = Path(shutil.copy(questions, folder))
        greedy = ["--temperature", "0", "--max_new_tokens", "4", "--device", "cpu"]
        assert model_vqa.main(command(asked, pictures, *greedy, *more)) == 0
        found.append(read(asked))
    assert [line["text"] for line in found[0]] == [line["text"] for line in found[1]]
    assert [line["metadata"]["kept"] for line in found[0]] == [line["metadata"]["kept"] for line in found[1]]
    assert found[0][0]["metadata"]["kept"][-1] == 4 and found[0][-1]["metadata"]["kept"][-1] == 0

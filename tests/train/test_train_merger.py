"""Training of mergers: what learns and what does not, resuming, saving, and clear words for what cannot be."""

from __future__ import annotations

import json
import logging
import math
import resource
from pathlib import Path

import pytest
import torch
import yaml

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.eval.run import main as evaluate
from llava.reduction import plan_from, reduced
from llava.reduction.learned.trained import trained_plan
from llava.reduction.mergers import MERGERS
from llava.shapes.export import export
from llava.train.merger import loop
from llava.train.merger.examples import TrainingExamples, draw_batch, split
from llava.train.merger.forward import read, read_together
from llava.train.merger.loop import CHECKPOINT, schedule
from llava.train.merger.losses import losses
from llava.train.merger.metrics import read_metrics
from llava.train.merger.module import build
from llava.train.merger.settings import read_settings
from llava.train.train_merger import main
from tests.conftest import PARITY15, in_processes

TYPES = [*MERGERS, "condensation", "custom_selection"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return export("llava", tmp_path_factory.mktemp("data") / "llava", images=3)


@pytest.fixture
def config(data, tmp_path):
    """A configuration file; ``config(key=value)`` writes it with changes."""

    def write(merger_type: str = "fixed_pooling", name: str = "config.yaml", **training) -> str:
        content = {
            "method_settings": {"merger_type": merger_type, "budgets": [64, 16], "d_internal": 16, "num_heads": 4},
            "backbone_settings": {"mllm_settings": {"model_path": str(PARITY15 / "checkpoint"), "conv_mode": "vicuna_v1"}},
            "data_settings": {"data_path": str(data / "llava_shapes.json"), "image_folder": str(data / "images")},
            "training_settings": {
                "output": str(tmp_path / "merger"), "steps": 4, "batch_size": 4, "warmup": 1, "save_every": 2, **training,
            },
        }  # fmt: skip
        (tmp_path / name).write_text(yaml.safe_dump(content))
        return str(tmp_path / name)

    return write


def weights(folder) -> dict:
    state = torch.load(folder / CHECKPOINT, weights_only=True)
    return {name: tensor for name, tensor in state["module"].items()}


@pytest.mark.parametrize(
    ("kind", "together"),
    [*((kind, False) for kind in TYPES), *((kind, True) for kind in TYPES if kind != "question_aware")],
)
def test_every_parameter_of_the_merger_gets_a_gradient_and_nothing_else_does(config, llava15, kind, together):
    changes = ["method_settings.use_question=true"] if kind == "fixed_pooling" and not together else []
    settings = read_settings(config(kind, feature_weight=1.0), changes)
    model = llava15.model
    asked = [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]
    model.requires_grad_(False)
    try:
        merger = build(settings, model.config.mm_hidden_size, model.config.hidden_size, 576)
        with torch.no_grad():
            for parameter in merger.module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        merger.module.train()
        examples = TrainingExamples(settings, model, llava15.tokenizer, llava15.image_processor)
        batch = examples.batch([0, 1, 9])
        teacher = examples.teacher([0, 1, 9], batch)
        with reduced(model, merger.plan(16)):
            student = examples.student([0, 1, 9], batch, together)
        assert student.counts == teacher.counts and torch.equal(student.answers, teacher.answers)
        losses(settings.training_settings, student, teacher)["loss"].backward()
        silent = [
            name for name, weight in merger.module.named_parameters() if weight.grad is None or not weight.grad.any()
        ]
        assert silent == [] and all(parameter.grad is None for parameter in model.parameters())
    finally:
        for (_, wanted), parameter in zip(asked, model.parameters()):
            parameter.requires_grad_(wanted)


def test_the_answers_are_the_same_tokens_under_every_plan(config, llava15):
    settings = read_settings(config())
    examples = TrainingExamples(settings, llava15.model, llava15.tokenizer, llava15.image_processor)
    batch = examples.batch([0, 5, 9])
    with torch.no_grad():
        full = read(llava15.model, batch, layer=4)
        for plan in ("merger:16", "fastv@2:16", "blind"):
            with reduced(llava15.model, plan):
                found = read(llava15.model, batch, layer=4)
            assert torch.equal(found.answers, full.answers) and not torch.allclose(found.logits, full.logits, atol=1e-4)
            assert found.counts == (full.counts if plan != "blind" else [(count, 0) for count, _ in full.counts])
    answers, words = full.counts[0]
    record = examples.dataset.records[0]["conversations"]
    assert llava15.tokenizer.decode(full.answers[:answers]).startswith(record[1]["value"])
    ids = batch["input_ids"][0]
    assert words == int(batch["attention_mask"][0].sum()) - 1 - (ids == IMAGE_TOKEN_INDEX).nonzero().item()


def test_a_teacher_with_every_token_costs_nothing_to_follow(config, llava15):
    """Against itself the distillation is zero, and what is remembered is what is computed, in any order."""
    settings = read_settings(config(feature_weight=1.0))
    examples = TrainingExamples(settings, llava15.model, llava15.tokenizer, llava15.image_processor)
    asked = [0, 9, 1]
    teacher = examples.teacher(asked, examples.batch(asked))
    assert set(examples.teacher_passes) == {*range(16)}  # all questions about the two pictures
    with torch.no_grad():
        student = read(llava15.model, examples.batch(asked), examples.layer)
    found = losses(settings.training_settings, student, teacher)
    assert float(found["distillation"]) == pytest.approx(0, abs=1e-6)
    assert float(found["feature"]) == pytest.approx(0, abs=1e-6)
    again = examples.teacher(asked[::-1], examples.batch(asked[::-1]))
    assert torch.allclose(again.logits.sum(0), teacher.logits.sum(0), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("plan", ["", "merger:16", "grid:64"])
@pytest.mark.parametrize(
    "rows", [range(8), [2], [0, 9, 1, 20, 17], [0, 1]], ids=["one picture", "one row", "mixed", "other words"]
)
def test_a_picture_is_read_once_for_all_of_its_questions(config, llava15, rows, plan):
    examples = TrainingExamples(read_settings(config()), llava15.model, llava15.tokenizer, llava15.image_processor)
    batch = examples.batch(rows)
    if rows == [0, 1]:
        batch["input_ids"][1, 2] += 1
    pictures = [examples.dataset.pictures(index) for index in rows]
    with reduced(llava15.model, plan):
        together, apart = read_together(llava15.model, batch, pictures, 3), read(llava15.model, batch, 3)
    assert together.counts == apart.counts and torch.equal(together.answers, apart.answers)
    torch.testing.assert_close(together.logits, apart.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.words, apart.words, atol=1e-4, rtol=1e-4)


def test_the_loss_falls_and_the_merger_answers_from_its_folder(config, tmp_path, data):
    flags = ["--set", "training_settings.steps=24", "--set", "training_settings.learning_rate=0.05"]
    flags += ["--set", "method_settings.budgets=[16]", "--set", "training_settings.batch_size=16"]
    assert main(["--config", config(), *flags]) == 0
    folder = tmp_path / "merger"
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(24))
    assert sum(line["answer"] for line in lines[-4:]) < 0.97 * sum(line["answer"] for line in lines[:4])
    assert {path.name for path in folder.iterdir()} >= {
        "merger.safetensors",
        "merger.json",
        "settings.yaml",
        "loss.png",
    }
    assert read_settings(folder / "settings.yaml").training_settings.steps == 24
    (stage,) = plan_from(f"merger:16,weights={folder}")
    assert not stage.reducer.module.training
    mme = export("mme", tmp_path / "mme", images=1)
    assert evaluate([
        "--model-path", str(PARITY15 / "checkpoint"), "--conv-mode", "vicuna_v1", "--device", "cpu", "--limit", "2", "--no-controls",
        "--samples", "0", "--data", str(mme), "--results", str(tmp_path / "runs"), "--reduction", f"merger:16,weights={folder}",
    ]) == 0  # fmt: skip
    (run,) = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    assert json.loads((run / "cost.json").read_text())["visual_tokens"] == 16


@pytest.mark.parametrize("kind", ["simple", "condensation"])
def test_a_killed_run_ends_as_one_that_was_not(config, tmp_path, monkeypatch, kind):
    assert main(["--config", config(kind)]) == 0
    whole, lines = weights(tmp_path / "merger"), read_metrics(tmp_path / "merger/metrics.jsonl")
    file = config(kind, output=str(tmp_path / "again"))
    real, calls = loop.losses, []

    def killed(*arguments):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "losses", killed)
    assert main(["--config", file]) == 130
    assert torch.load(tmp_path / "again" / CHECKPOINT, weights_only=True)["step"] == 2
    assert main(["--config", file]) == 0
    resumed = weights(tmp_path / "again")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    again = read_metrics(tmp_path / "again/metrics.jsonl")
    assert again == lines
    folder = tmp_path / "again"
    spelled = {"simple": "merger:64", "condensation": "condensation@features:64,strategy=fps"}
    assert (
        trained_plan(folder, 64) == f"{spelled[kind]},weights={folder}"
        and len(plan_from(trained_plan(folder, 64))) == 1
    )


def test_a_folder_says_at_which_stage_it_was_trained(config, tmp_path):
    where = ["--set", "method_settings.layer=3", "--set", "method_settings.strategy=dpp"]
    assert main(["--config", config("custom_selection", steps=1), *where]) == 0
    folder = tmp_path / "merger"
    assert trained_plan(folder, 16) == f"custom_selection@3:16,strategy=dpp,weights={folder}"
    assert len(plan_from(trained_plan(folder, 16))) == 1


def test_accumulated_gradients_are_those_of_the_whole_batch(config, tmp_path):
    assert main(["--config", config(steps=2)]) == 0
    assert main(["--config", config(steps=2, gradient_accumulation=2, output=str(tmp_path / "two"))]) == 0
    one, two = (read_metrics(folder / "metrics.jsonl") for folder in (tmp_path / "merger", tmp_path / "two"))
    assert [line["budget"] for line in one] == [line["budget"] for line in two]
    for name in ("loss", "answer", "distillation", "grad_norm"):
        assert one[0][name] == pytest.approx(two[0][name], rel=1e-4)


@pytest.mark.parametrize(("kind", "machines"), [("fixed_pooling", 1), ("condensation", 2)])
def test_two_processes_learn_what_one_learns(config, tmp_path, kind, machines):
    files = {name: config(kind, f"{name}.yaml", output=str(tmp_path / name), steps=2) for name in ("one", "two")}
    assert main(["--config", files["one"]]) == 0
    in_processes(2, "llava.train.train_merger", "--config", files["two"], machines=machines)
    found = {name: (weights(tmp_path / name), read_metrics(tmp_path / name / "metrics.jsonl")) for name in files}
    assert all(torch.allclose(found["two"][0][name], tensor, atol=1e-5) for name, tensor in found["one"][0].items())
    assert [line["loss"] for line in found["two"][1]] == pytest.approx(
        [line["loss"] for line in found["one"][1]], rel=1e-4
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_takes_the_steps_of_full_precision(config, tmp_path, precision):
    losses = {}
    for name in ("no", precision):
        assert main(["--config", config(output=str(tmp_path / name), steps=2, mixed_precision=name)]) == 0
        losses[name] = [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl")]
    assert losses[precision] == pytest.approx(losses["no"], rel=0.02) and losses[precision] != losses["no"]
    assert all(tensor.dtype is torch.float32 for tensor in weights(tmp_path / precision).values())


def test_a_loss_that_is_no_number_stops_with_step_and_checkpoint(config, tmp_path, monkeypatch, caplog):
    real, calls = loop.losses, []

    def broken(*arguments):
        calls.append(None)
        found = real(*arguments)
        return {**found, "loss": found["loss"] * math.nan} if len(calls) == 4 else found

    monkeypatch.setattr(loop, "losses", broken)
    assert main(["--config", config()]) == 2
    assert "the loss is nan at step 3; the last good checkpoint is" in caplog.text
    assert torch.load(tmp_path / "merger" / CHECKPOINT, weights_only=True)["step"] == 2


def test_another_training_is_not_resumed(config, tmp_path, caplog):
    assert main(["--config", config(steps=2)]) == 0
    assert main(["--config", config(steps=2), "--set", "training_settings.seed=1"]) == 2
    assert "is of another training: training_settings.seed is 0 there and 1 now" in caplog.text


def test_what_is_trained_is_left_alone_and_another_training_does_not_take_its_place(config, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    file, folder = config(steps=2), tmp_path / "merger"
    assert main(["--config", file]) == 0
    (folder / CHECKPOINT).unlink()  # as in a folder that is shipped
    written = (folder / "merger.safetensors").stat().st_mtime_ns
    assert main(["--config", file]) == 0
    assert "is trained so already; remove it to train it again" in caplog.text
    assert (folder / "merger.safetensors").stat().st_mtime_ns == written
    assert main(["--config", file, "--set", "training_settings.steps=3"]) == 2
    assert "merger.json is of another training: training_settings.steps is 2 there and 3 now" in caplog.text
    about = json.loads((folder / "merger.json").read_text())
    (folder / "merger.json").write_text(json.dumps(about | {"fingerprint": "another"}))
    assert main(["--config", file]) == 2
    assert "is of another training: fingerprint is 'another' there and" in caplog.text
    (folder / "merger.json").write_text(json.dumps({name: about[name] for name in about if name != "fingerprint"}))
    assert main(["--config", file]) == 0


@pytest.mark.parametrize("kind", TYPES)
def test_what_learns_stays_float32_whatever_the_model_is(config, tmp_path, monkeypatch, kind):
    optimisers = []
    real = torch.optim.AdamW

    def recorded(*arguments, **options):
        optimisers.append(real(*arguments, **options))
        return optimisers[-1]

    monkeypatch.setattr(torch.optim, "AdamW", recorded)
    flags = ["--set", "backbone_settings.mllm_settings.dtype=bfloat16"]
    assert main(["--config", config(kind, steps=1), *flags]) == 0
    (optimiser,) = optimisers
    assert {weight.dtype for group in optimiser.param_groups for weight in group["params"]} == {torch.float32}
    assert all(tensor.dtype is torch.float32 for tensor in weights(tmp_path / "merger").values())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["question_aware", "fixed_pooling"])
def test_the_answer_is_no_part_of_the_question_that_a_merger_reads(config, llava15, kind):
    """Another answer leaves the merged features as they are; another question changes them."""
    changes = ["method_settings.use_question=true"] if kind == "fixed_pooling" else []
    settings, model = read_settings(config(kind), changes), llava15.model
    merger = build(settings, model.config.mm_hidden_size, model.config.hidden_size, 576)
    for parameter in merger.module.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    merger.module.eval()
    batch = TrainingExamples(settings, model, llava15.tokenizer, llava15.image_processor).batch([0, 9])
    learned = batch["labels"] != IGNORE_INDEX

    def merged(ids):
        with reduced(model, merger.plan(16)):
            spliced = model.splice(
                ids, batch["attention_mask"], batch["labels"], raw_vision_features=batch["raw_vision_features"]
            )
        return spliced.inputs_embeds[spliced.visual > 0]

    ids = batch["input_ids"]
    answers = torch.where(learned, (ids + 7) % 300 + 3, ids)
    asked = (ids == IMAGE_TOKEN_INDEX).long().cumsum(1).bool() & (ids != IMAGE_TOKEN_INDEX)
    questions = torch.where(asked & ~learned & batch["attention_mask"], (ids + 7) % 300 + 3, ids)
    assert torch.equal(merged(ids), merged(answers)) and not torch.equal(merged(ids), merged(questions))


def test_a_full_disk_is_one_sentence_that_names_the_whole_checkpoint(config, tmp_path, monkeypatch, caplog):
    """RLIMIT_FSIZE stands for the disk: a file that grows beyond it fails as one on a full disk does."""
    file = config("simple", steps=2, save_every=1)
    real, writes = torch.save, []

    def save(*arguments):
        writes.append(None)
        if len(writes) < 2:
            return real(*arguments)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        try:
            return real(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(torch, "save", save)
    assert main(["--config", file]) == 2
    (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    kept = tmp_path / "merger" / CHECKPOINT
    assert f"{kept} cannot be written" in line and f"the last whole checkpoint is {kept}" in line
    assert torch.load(kept, weights_only=True)["step"] == 1 and not list(kept.parent.glob("*.partial"))
    assert main(["--config", file]) == 2 and len(writes) == 3


@pytest.mark.parametrize("content", [{"step": 1}, [1], b"no archive"])
def test_a_foreign_checkpoint_is_one_sentence(config, tmp_path, caplog, content):
    (tmp_path / "merger").mkdir()
    file = tmp_path / "merger" / CHECKPOINT
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    assert main(["--config", config("simple", steps=1)]) == 2
    (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert str(file) in line and "remove its folder" in line and "\n" not in line


def test_data_that_can_be_generated_are_said_to_be(config, tmp_path, caplog):
    where = ["--set", f"data_settings.data_path={tmp_path}/new/llava_shapes.json"]
    assert main(["--config", config("simple", steps=1), *where]) == 2
    assert f"python -m llava.shapes.export --format llava --images 2000 --output {tmp_path}/new" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["method_settings.merger_typ=simple"],
            "the key method_settings.merger_typ is unknown; did you mean 'merger_type'",
        ),
        (["method_settings.merger_type=simpel"], "method_settings.merger_type='simpel': Input should be 'simple'"),
        (["method_settings.layer=3"], "layer=3 contradicts merger_type=fixed_pooling"),
        (
            ["method_settings.merger_type=question_aware", "method_settings.use_question=false"],
            "contradicts merger_type",
        ),
        (["method_settings.budgets=[600]"], "600 exceeds the 576 tokens"),
        (["method_settings.num_heads=5"], "num_heads=5 must divide the width"),
        (["backbone_settings.mllm_settings.vision_dim=1024"], "vision_dim=1024 but"),
        (["backbone_settings.mllm_settings.hidden_dim=4096"], "hidden_dim=4096 but"),
        (["training_settings.gradient_accumulation=3"], "gradient_accumulation=3 must divide batch_size=4"),
        (["training_settings.answer_weight=0", "training_settings.distillation_weight=0"], "are all 0"),
        (["training_settings.steps=many"], "training_settings.steps='many'"),
        (["nothing.here=1"], "--set nothing.here=1 is not understood"),
    ],
)
def test_bad_settings_are_one_clear_line(config, caplog, changes, message):
    flags = [word for change in changes for word in ("--set", change)]
    assert main(["--config", config(), *flags]) == 2
    assert message in caplog.text


@pytest.mark.parametrize(
    ("written", "value"), [("5e-4", 5e-4), ("1E-3", 1e-3), ("2.5e+0", 2.5), ("3", 3.0), (".5", 0.5)]
)
def test_numbers_are_read_as_they_are_usually_written(config, written, value):
    assert (
        read_settings(config(), [f"training_settings.learning_rate={written}"]).training_settings.learning_rate == value
    )


@pytest.mark.parametrize("kind", TYPES)
def test_the_shipped_configuration_trains_every_kind(kind):
    file = Path(__file__).parents[2] / "configs/vision_token_pruning.yaml"
    assert read_settings(file, [f"method_settings.merger_type={kind}"]).method_settings.merger_type == kind


def test_the_bare_no_of_yaml_is_no_mixed_precision(config):
    changed = read_settings(config(), ["training_settings.mixed_precision=no"])
    assert changed == read_settings(config()) and changed.training_settings.mixed_precision == "no"


def test_bad_records_are_named(config, data, tmp_path, caplog):
    records = json.loads((data / "llava_shapes.json").read_text())
    del records[1]["conversations"]
    (tmp_path / "bad.json").write_text(json.dumps(records))
    where = ["--set", f"data_settings.data_path={tmp_path / 'bad.json'}"]
    assert main(["--config", config(), *where]) == 2
    assert "bad.json record 2" in caplog.text and "has no conversations" in caplog.text
    assert main(["--config", config(steps=1), *where, "--set", "data_settings.skip_bad_records=true"]) == 0
    assert "1 of" in caplog.text


def test_what_a_step_draws_depends_on_its_number_alone():
    alone = [[index] for index in range(20)]
    one_pass = [index for step in range(5) for index in draw_batch(alone, 4, step, seed=0)]
    assert sorted(one_pass) == list(range(20)) and one_pass != list(range(20))
    assert draw_batch(alone, 4, 7, 0) == draw_batch(alone, 4, 7, 0) != draw_batch(alone, 4, 7, 1)
    assert len(draw_batch(alone[:3], 8, 0, 0)) == 8


def test_a_batch_is_split_into_parts_as_equal_as_can_be():
    parts = split(range(7), 3)
    assert isinstance(parts, list) and [list(part) for part in parts] == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(split(range(2), 3)) == 2


def test_questions_about_a_picture_stay_together():
    groups = [[0, 1, 2], [3, 4], [5, 6, 7]]
    found = [index for step in range(2) for index in draw_batch(groups, 4, step, seed=1)]
    assert sorted(found) == list(range(8)) and all(str(group)[1:-1] in str(found) for group in groups)


def test_words_are_matched_behind_the_reduction(config, caplog):
    where = ["--set", "method_settings.layer=3", "--set", "training_settings.feature_weight=1"]
    for layer in (3, 9):
        asked = ["--set", f"training_settings.feature_layer={layer}"]
        assert main(["--config", config("custom_selection"), *where, *asked]) == 2
        assert f"feature_layer={layer} must lie between 4 and 8" in caplog.text


def test_the_rate_warms_up_and_goes_down():
    rates = [schedule(step, 100, 10) for step in range(100)]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1 and rates[-1] < 0.02
    assert all(a >= b for a, b in zip(rates[10:], rates[11:]))

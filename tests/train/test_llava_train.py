"""Each stage end to end on a tiny model: the loss falls, the folder loads and answers the same, a killed run ends the same."""

from __future__ import annotations

import json
import os
import resource
import shutil
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import BatchSampler

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.builder import load_pretrained_model
from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM
from llava.reduction import reduced
from llava.shapes import world
from llava.train import arguments, llava_trainer, trainable
from llava.train import train as training
from llava.train.assembly import load_model
from llava.train.checkpoints import last_checkpoint, restore_trained
from llava.train.llava_trainer import LlavaTrainer, set_rate
from llava.train.records import image_positions, load_records
from llava.train.sampler import EpochSampler
from tests.conftest import PARITY15

CHECKPOINT = PARITY15 / "checkpoint"
TOWER = CHECKPOINT / "clip-tiny-patch14-336"
QUIET = ["--use_cpu", "True", "--disable_tqdm", "True", "--logging_steps", "1", "--save_strategy", "steps"]
STEPS = 4
SHORT = ["--reduction", "pool@features:16"]  # for what is the same with fewer tokens, in a third of the time


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """What is this small is computed fastest by one; two wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Six pictures, each with a caption and with a question; and texts."""
    folder = tmp_path_factory.mktemp("data")
    captions, questions = [], []
    for number in range(6):
        scene = world.make_scene(7, number)
        world.render(scene).save(folder / f"{number}.png")
        kind = scene.shapes[0].kind
        image = {"id": number, "image": f"{number}.png"}
        captions.append(image | dialogue("Describe.\n<image>", kind))
        questions.append(image | dialogue("<image>\nWhat?", kind, "And now?", "no"))
    texts = [dialogue("One and one?", "Two")] * 2
    for name, records in (("captions", captions), ("questions", questions), ("mixed", questions[:4] + texts)):
        (folder / f"{name}.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> Path:
    """The checkpoint without tower and projector, as a language model that never saw an image."""
    folder = tmp_path_factory.mktemp("base") / "lm"
    shutil.copytree(CHECKPOINT, folder, ignore=shutil.ignore_patterns("clip-*"))
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if "mm_projector" not in name},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    config = json.loads((folder / "config.json").read_text())
    config = {
        name: value for name, value in config.items() if not name.startswith(("mm_", "image_", "tune_", "use_mm"))
    }
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    return folder


def dialogue(*texts):
    return {"conversations": [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]}


def words(data, output, *more, model=CHECKPOINT, records="questions", version="v1", steps=STEPS, rate=2e-3):
    """The command line of a short run."""
    given = {"model_name_or_path": model, "data_path": data / f"{records}.json", "image_folder": data}
    given |= {"output_dir": output, "version": version, "max_steps": steps, "learning_rate": rate}
    given |= {"per_device_train_batch_size": 2, "save_steps": 2}
    return [*QUIET, *(str(word) for name, value in given.items() for word in (f"--{name}", value)), *map(str, more)]


def run(*arguments, **options) -> LlavaTrainer:
    return training.train(*training.parse(words(*arguments, **options)))


def losses(trainer):
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def logits(model, trainer):
    """What a model says to the first record."""
    item = trainer.train_dataset[0]
    with torch.no_grad():
        images = {"images": torch.stack(item["images"]), "image_sizes": item["image_sizes"]}
        return model.eval()(input_ids=item["input_ids"][None], **images).logits


def loads_the_same(folder, base, trainer, close=0.0):
    """The saved folder, loaded by LLaVA's loader, says and answers what the trained model does."""
    tokenizer, model, image_processor, context = load_pretrained_model(folder, base, "any", device="cpu")
    torch.testing.assert_close(logits(model, trainer), logits(trainer.model, trainer), atol=close, rtol=0)
    item = trainer.train_dataset[0]
    prompt = item["input_ids"][None, : int((item["labels"] != -100).nonzero()[0])]
    given = {"images": torch.stack(item["images"]), "max_new_tokens": 4, "do_sample": False}
    trained = trainer.model.get_base_model() if trainer.layout == "lora" else trainer.model
    assert model.generate(prompt, **given).tolist() == trained.generate(prompt, **given).tolist()
    assert image_processor is not None and context == 2048 and model.config.use_cache
    return model


def weights_of(trainer):
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters() if weight.requires_grad}


def resumes_the_same(output, first, again):
    """Killed while it wrote the last checkpoint, a run goes on from the one before and ends with the same weights."""
    wanted = weights_of(first)
    shutil.rmtree(output / f"checkpoint-{STEPS}")
    (output / f"checkpoint-{STEPS - 1}").mkdir()
    (output / f"checkpoint-{STEPS - 1}" / "config.json").write_text("{")
    resumed = again()
    assert resumed._initial_global_step == 2 and resumed.state.global_step == STEPS
    assert losses(resumed) == losses(first)
    found = weights_of(resumed)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


# -------------------------------------------------------------------------------------------------------------- stages


def test_pretraining_and_then_tuning_of_a_language_model(data, language_model, tmp_path):
    """Stage 1 gives a language model eyes; stage 2 begins with its projector."""
    vision = ["--vision_tower", TOWER, "--mm_projector_type", "mlp2x_gelu", "--mm_vision_select_layer", -2]
    vision += ["--image_aspect_ratio", "pad"]
    first = [data, tmp_path / "pre", *vision, "--tune_mm_mlp_adapter", True]
    options = {"model": language_model, "records": "captions", "version": "plain", "rate": 1e-2}
    trainer = run(*first, **options)
    assert losses(trainer)[-1] < losses(trainer)[0] - 0.1
    assert set(weights_of(trainer)) == {
        f"model.mm_projector.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")
    }
    stored = torch.load(tmp_path / "pre/mm_projector.bin", weights_only=True)
    assert set(stored) == set(weights_of(trainer))
    before, after = load_file(language_model / "model.safetensors"), trainer.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    for folder in (tmp_path / "pre", tmp_path / f"pre/checkpoint-{STEPS}"):
        loads_the_same(folder, language_model, trainer)
    assert not (tmp_path / "pre/model.safetensors").exists()
    resumes_the_same(tmp_path / "pre", trainer, lambda: run(*first, **options))

    second = [data, tmp_path / "tuned", *vision]
    second += ["--pretrain_mm_mlp_adapter", tmp_path / "pre/mm_projector.bin", "--freeze_mm_mlp_adapter", True]
    tuned = run(*second, model=language_model, steps=1)
    assert all(torch.equal(tuned.model.state_dict()[name], tensor) for name, tensor in stored.items())
    assert tuned.model.config.freeze_mm_mlp_adapter and len(weights_of(tuned)) > 70
    assert getattr(trainer.model.config, "conv_mode", None) is None and tuned.model.config.conv_mode == "v1"
    loads_the_same(tmp_path / "tuned", None, tuned)


def test_full_tuning_by_modality_through_a_reduction(data, tmp_path):
    given = [data, tmp_path / "out", "--group_by_modality_length", True, "--reduction", "fastv@2:64"]
    trainer = run(*given, records="mixed")
    assert losses(trainer)[-1] < losses(trainer)[0] - 0.1
    model = loads_the_same(tmp_path / "out", None, trainer)
    assert model.config.reduction == "fastv@2:64" and model.get_model().last_visual_per_layer[:, 0].tolist()[1:4] == [
        576,
        64,
        64,
    ]
    assert trainer.args.ddp_find_unused_parameters  # a batch of texts leaves the projector without a gradient
    tower = trainer.model.get_vision_tower()
    assert not any(weight.requires_grad for weight in tower.parameters()) and not tower.vision_tower.training
    resumes_the_same(tmp_path / "out", trainer, lambda: run(*given, records="mixed"))


def test_a_run_resumed_with_something_else_says_what_differs(data, tmp_path, caplog):
    given = [data, tmp_path / "out", *SHORT]
    run(*given, steps=2, records="captions")
    assert "asked for something else" not in caplog.text
    run(*given, steps=2, records="captions")
    assert "asked for something else" not in caplog.text
    run(*given, steps=3, rate=1e-3, records="mixed")
    (said,) = [line for line in caplog.messages if "asked for something else" in line]
    assert (
        "data.data_path is" in said and "training.learning_rate is" in said and "training.max_steps is 2 there" in said
    )
    assert str(tmp_path / "out") in said and "save" not in said
    caplog.clear()
    run(*given, steps=3, rate=1e-3, records="mixed")
    assert "asked for something else" not in caplog.text


def test_lora(data, tmp_path):
    pytest.importorskip("peft")
    given = [
        data,
        tmp_path / "out",
        "--lora_enable",
        True,
        "--lora_r",
        8,
        "--mm_projector_lr",
        1e-3,
        "--lora_dropout",
        0.3,
    ]
    given += ["--gradient_checkpointing", True]
    trainer = run(*given, rate=2e-2)
    assert losses(trainer)[-1] < losses(trainer)[0] - 0.1
    names = set(weights_of(trainer))
    assert sum("lora_" in name for name in names) == 2 * 7 * 8 and not any("vision_tower" in name for name in names)
    assert not any("vision" in name for name in load_file(tmp_path / "out/adapter_model.safetensors"))
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {2e-2, 1e-3}
    stored = torch.load(tmp_path / "out/non_lora_trainables.bin", weights_only=True)
    assert set(stored) == {name for name in names if "lora_" not in name}
    assert all(name.startswith("base_model.model.model.mm_projector.") for name in stored)
    loads_the_same(tmp_path / "out", CHECKPOINT, trainer, close=1e-4)
    resumes_the_same(tmp_path / "out", trainer, lambda: run(*given, rate=2e-2))
    begun = run(data, tmp_path / "more", *given[2:], "--lora_weight_path", tmp_path / "out", steps=1, rate=1e-9)
    assert losses(begun)[0] < losses(trainer)[0] - 0.1


def test_a_lora_with_marks_around_images(data, tmp_path):
    """The rows that the new tokens add to the embeddings are learnt and saved beside the LoRA."""
    pytest.importorskip("peft")
    trainer = run(data, tmp_path, *SHORT, "--lora_enable", True, "--mm_use_im_start_end", True, steps=1)
    assert trainer.model.config.vocab_size == 422 and 420 in trainer.train_dataset[0]["input_ids"]
    assert {name.split(".")[-2] for name in weights_of(trainer)} >= {"embed_tokens", "lm_head"}
    loads_the_same(tmp_path, CHECKPOINT, trainer, close=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_lora_over_quantised_weights(data, tmp_path, bits):
    """It learns, and the saved LoRA belongs to the whole weights, over which it is loaded."""
    pytest.importorskip("peft")
    pytest.importorskip("bitsandbytes")
    trainer = run(data, tmp_path, *SHORT, "--lora_enable", True, "--bits", bits, rate=2e-2)
    assert losses(trainer)[-1] < losses(trainer)[0] - 0.05
    kinds = {type(module).__name__ for module in trainer.model.modules()}
    assert {4: "Linear4bit", 8: "Linear8bitLt"}[bits] in kinds
    assert all("lora_" in name or "mm_projector" in name for name in weights_of(trainer))
    _, model, *_ = load_pretrained_model(tmp_path, CHECKPOINT, device="cpu")
    name = "model.layers.0.self_attn.q_proj.weight"
    merged, before = model.state_dict()[name], load_file(CHECKPOINT / "model.safetensors")[name].float()
    assert merged.dtype is torch.float32 and 0 < (merged - before).abs().max() < 1


def test_a_frozen_backbone(data, tmp_path):
    trainer = run(data, tmp_path, *SHORT, "--freeze_backbone", True, steps=1)
    assert {name.rsplit(".", 2)[0] for name in weights_of(trainer)} == {
        "model.mm_projector",
        "lm_head.weight".rsplit(".", 2)[0],
    }
    layer, projector = trainer.model.model.layers[0], trainer.model.model.mm_projector
    trainer.model.train()
    trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[0]]))
    assert not layer.self_attn.training and not layer.mlp.training and projector.training
    assert layer.training  # which is what switches checkpointing on


def test_a_lora_beside_a_projector_that_stays(data, tmp_path):
    """The projector is saved all the same: a language model under it may have none."""
    pytest.importorskip("peft")
    trainer = run(data, tmp_path, *SHORT, "--lora_enable", True, "--freeze_mm_mlp_adapter", True, steps=1)
    assert all("lora_" in name for name in weights_of(trainer))
    loads_the_same(tmp_path, CHECKPOINT, trainer, close=1e-4)


def test_what_learns_is_float32_whatever_the_rest_is(data, tmp_path):
    trainer = run(data, tmp_path, *SHORT, "--tune_mm_mlp_adapter", True, "--bf16", True, steps=1)
    dtypes = {weight.requires_grad: weight.dtype for weight in trainer.model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    whole = run(data, tmp_path / "whole", *SHORT, "--bf16", True, steps=1)
    assert {weight.dtype for weight in whole.model.parameters()} == {torch.float32}


def test_a_llava_may_begin_with_another_projector(data, tmp_path):
    weights = {
        name: torch.randn_like(tensor)
        for name, tensor in load_file(CHECKPOINT / "model.safetensors").items()
        if "mm_projector" in name
    }
    torch.save(weights, tmp_path / "mm_projector.bin")
    arguments = words(data, tmp_path, "--pretrain_mm_mlp_adapter", tmp_path / "mm_projector.bin")
    model_args, _, args, _ = training.parse(arguments)
    _, model, _ = load_model(model_args, args, {})
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())


def test_a_config_says_what_a_yaml_plan_says(data, tmp_path):
    (tmp_path / "plan.yaml").write_text("reduction: [{method: fastv, layer: 3, keep: 9}]")
    trainer = run(data, tmp_path, "--reduction", tmp_path / "plan.yaml", "--tune_mm_mlp_adapter", True, steps=1)
    assert json.loads((tmp_path / "config.json").read_text())["reduction"] == "fastv@3:9"
    assert trainer.args.ddp_find_unused_parameters is None  # every record passes the projector


def test_logits_that_nobody_reads_are_not_computed(data, tmp_path, monkeypatch):
    seen, forward = [], LlavaLlamaForCausalLM.forward

    def watched(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        seen.append(output.logits is None)
        return output

    monkeypatch.setattr(LlavaLlamaForCausalLM, "forward", watched)
    run(data, tmp_path, *SHORT, "--tune_mm_mlp_adapter", True, steps=1)
    assert seen and all(seen)


def test_the_loss_is_that_of_the_answers_whatever_is_thrown_away(data, tmp_path):
    """With nothing lost the loss of a reduced model is the whole model's; with less than all it is another."""
    found = {}
    for plan in ("", "+fastv@2:64", "+fastv@2:4"):
        trainer = run(data, tmp_path / f"out{plan}", "--reduction", f"pool@features:64{plan}", steps=1, rate=1e-9)
        found[plan] = losses(trainer)[0]
        item = trainer.train_dataset[0]
        batch = trainer.data_collator([item])
        said = trainer.model(**batch)
        answer = item["labels"][item["labels"] != -100]
        # The last positions of the sequence are text, so the answers stand at its end whatever is gone before them.
        learnt = item["labels"].flip(0) != -100
        places = learnt.nonzero().flatten() + 2
        score = said.logits[0].flip(0)[places - 1].log_softmax(-1).gather(1, item["labels"].flip(0)[learnt][:, None])
        assert said.loss.item() == pytest.approx(-score.mean().item(), rel=1e-5) and len(score) == len(answer)
    assert found["+fastv@2:64"] == pytest.approx(found[""], rel=1e-5)
    assert abs(found["+fastv@2:4"] - found[""]) > 1e-5


# ------------------------------------------------------------------------------------------------------- what goes wrong


def test_a_loss_that_is_no_number_names_step_and_checkpoint(data, tmp_path):
    with pytest.raises(
        FloatingPointError, match="the loss of step 2 is (nan|inf).*checkpoint-1. Lower --learning_rate"
    ):
        run(data, tmp_path, *SHORT, "--save_steps", 1, "--max_grad_norm", 0, rate=1e22)
    assert last_checkpoint(tmp_path).name == "checkpoint-1"


def test_a_full_disk_is_one_sentence_that_names_the_whole_checkpoint(data, tmp_path, caplog):
    """RLIMIT_FSIZE stands for the disk: a file that grows beyond it fails as one on a full disk does."""
    flags = ["--tune_mm_mlp_adapter", True, "--save_steps", 1]
    run(data, tmp_path, *SHORT, *flags, steps=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        code = training.main(words(data, tmp_path, *SHORT, *flags, steps=3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2
    (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert "checkpoint-2 cannot be written" in line and "\n" not in line
    assert f"the last whole checkpoint is {tmp_path}/checkpoint-1" in line
    assert last_checkpoint(tmp_path).name == "checkpoint-1"
    assert training.main(words(data, tmp_path, *SHORT, *flags, steps=3)) == 0


class Malicious:
    """Runs a command where it is unpickled as code."""

    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("optimizer.pt", Malicious(), "holds something else than tensors and numbers"),
        ("optimizer.pt", {"state": {}, "param_groups": []}, "does not fit this training or is damaged"),
        ("optimizer.pt", [1], "does not fit this training or is damaged"),
        ("optimizer.pt", None, "does not fit this training or is damaged"),
        ("scheduler.pt", [1], "does not fit this training or is damaged"),
        ("rng_state.pth", {"python": 1}, "does not fit this training or is damaged"),
    ],
)
def test_a_foreign_or_malicious_state_is_one_sentence(data, tmp_path, monkeypatch, caplog, name, content, message):
    monkeypatch.chdir(tmp_path)
    flags = [*SHORT, "--tune_mm_mlp_adapter", True]
    run(data, tmp_path, *flags, steps=2)
    file = tmp_path / "checkpoint-2" / name
    if content is None:
        file.write_bytes(file.read_bytes()[:100])
    else:
        torch.save(content, file)
    assert training.main(words(data, tmp_path, *flags, steps=3)) == 2
    (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert name in line and message in line and "remove its folder" in line and "\n" not in line
    assert not Path("executed").exists()


def test_weights_that_are_no_numbers_are_not_saved(data, tmp_path):
    trainer = run(data, tmp_path, *SHORT, "--freeze_backbone", True, steps=1)
    with torch.no_grad():
        trainer.model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="lm_head.weight is no longer finite at step 1"):
        trainer.save_model(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_a_checkpoint_of_another_run_is_refused(data, tmp_path):
    trainer = run(data, tmp_path, *SHORT, "--tune_mm_mlp_adapter", True, steps=2)
    trainer.model.lm_head.requires_grad_(True)
    with pytest.raises(
        ValueError, match="checkpoint-2 has no fitting lm_head.weight; was it saved by a run with the same"
    ):
        restore_trained(trainer.model, tmp_path / "checkpoint-2")


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "mm_projector.bin")
    with pytest.raises(ValueError, match="has no fitting weight; was it saved"):
        restore_trained(torch.nn.Linear(3, 2, bias=False), tmp_path)


def test_a_lora_over_quantised_weights_is_saved_for_the_whole_ones():
    config = types.SimpleNamespace(use_cache=False, quantization_config={"load_in_4bit": True})
    with llava_trainer._as_saved(config):
        assert vars(config) == {"use_cache": True}
    assert vars(config) == {"use_cache": False, "quantization_config": {"load_in_4bit": True}}


CONTRADICTIONS = {
    "tune_mm_mlp_adapter and lora_enable": ["--tune_mm_mlp_adapter", "True", "--lora_enable", "True"],
    "tune_mm_mlp_adapter and freeze_mm_mlp_adapter": [
        "--tune_mm_mlp_adapter",
        "True",
        "--freeze_mm_mlp_adapter",
        "True",
    ],
    "freeze_backbone and lora_enable": ["--freeze_backbone", "True", "--lora_enable", "True"],
    "mm_projector_lr is given, but freeze": ["--mm_projector_lr", "1", "--freeze_mm_mlp_adapter", "True"],
    "lora_weight_path is given without": ["--lora_weight_path", "x"],
    "bits=4 is not possible; give 16, or": ["--bits", "4"],
    "doubly quantised nf4 only": ["--bits", "4", "--lora_enable", "True", "--quant_type", "fp4"],
    "label_smoothing_factor=0.1 is not possible": ["--label_smoothing_factor", "0.1"],
    "warmup_ratio=3.0 is no share": ["--warmup_ratio", "3"],
    "lora_bias='some' is unknown": ["--lora_bias", "some"],
    "conversation template 'v11' is unknown; did you mean": ["--version", "v11"],
    "mm_projector_type='linear', but .* was trained with 'mlp2x_gelu'": ["--mm_projector_type", "linear"],
    "vision_tower='.*data.*', but .* sees through 'clip-tiny": ["--vision_tower", str(PARITY15.parent)],
    "tune_mm_mlp_adapter together with mm_use_im_start_end": "--tune_mm_mlp_adapter True --mm_use_im_start_end True".split(),
    "is_multimodal=False, but": ["--is_multimodal", "False"],
    "model_max_length=5000 exceeds the 4096": ["--model_max_length", "5000"],
    "anyres needs a model": ["--image_aspect_ratio", "anyres"],
    "--lora_rank is unknown; did you mean .*'--lora_r'": ["--lora_rank", "3"],
    "--group_by_length is unknown.*; give --train_sampling_strategy": ["--group_by_length", "True"],
    "method 'fastw' is unknown": ["--reduction", "fastw@2:64"],
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_flags_that_cannot_be(message, data, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(data, tmp_path, *CONTRADICTIONS[message])


def test_what_is_missing_is_named(data, tmp_path, language_model, monkeypatch):
    with pytest.raises(ValueError, match="has no vision tower; give --vision_tower"):
        run(data, tmp_path, model=language_model)
    with pytest.raises(ValueError, match="output_dir is missing"):
        training.parse(["--model_name_or_path", "m", "--data_path", "d"])
    for module in (arguments, trainable):
        monkeypatch.setattr(module, "installed", lambda package: False)
    with pytest.raises(ImportError, match=r"pip install 'llava-condense\[train\]'"):
        run(data, tmp_path, "--lora_enable", True)
    with pytest.raises(ImportError, match="pip install deepspeed, or leave --deepspeed out"):
        run(data, tmp_path, "--deepspeed", "zero2.json")
    with pytest.raises(ImportError, match="pip install wandb"):
        run(data, tmp_path, "--report_to", "wandb")


def test_bad_records_end_the_command_with_their_names(data, tmp_path, caplog):
    records = json.loads((data / "questions.json").read_text())
    del records[2]["image"]
    (tmp_path / "questions.json").write_text(json.dumps(records))
    for record in records:
        shutil.copy(data / f"{record['id']}.png", tmp_path)
    assert training.main(words(tmp_path, tmp_path / "out")) == 2
    assert "questions.json record 3 (id 2): has 1 <image>" in caplog.text


def test_records_are_read_as_the_flags_say(data, tmp_path, configured, monkeypatch):
    """Lengths count what a picture leaves of itself; a record that is too long is cut where that is asked for."""
    model, config, processor = configured.model, configured.model.config, configured.image_processor
    monkeypatch.setattr(configured.tokenizer, "model_max_length", 2048)

    def records(*more):
        model_args, data_args, args, _ = training.parse(words(data, tmp_path, *more, records="mixed"))
        return load_records(model, configured.tokenizer, processor, model_args, data_args, args)

    longest = max(len(item["input_ids"]) - 1 + 576 for item in records())
    assert len(records("--model_max_length", longest)) == 6
    with pytest.raises(ValueError, match=f"is {longest} positions long.*model_max_length={longest - 1}"):
        records("--model_max_length", longest - 1)
    config.tokenizer_model_max_length = 60  # as an earlier training left it
    with reduced(model, "pool@features:64"):
        assert len(records("--model_max_length", longest - 576 + 64)) == 6
        assert image_positions(model, processor) == 64
    assert config.tokenizer_model_max_length == longest - 576 + 64
    cut = records("--model_max_length", longest - 1, "--cut_long_records", True, "--image_aspect_ratio", "square")
    assert len(cut) == 6 and config.image_aspect_ratio == "square"
    config.image_grid_pinpoints = [[336, 672], [672, 336], [672, 672]]
    whole = records("--image_aspect_ratio", "anyres", "--lazy_preprocess", True, "--model_max_length", 4000)
    assert whole.image_tokens((1000, 1000)) == 5 * 576 and whole.image_tokens((1000, 400)) == 3 * 576


def test_questions_about_a_picture_are_learnt_one_by_one_where_that_is_asked_for(data, tmp_path, configured):
    """Each as evaluation asks it, the picture first; turns without a picture may speak of one another and stay together."""
    turns = [("<image>\nWhat is it?\nAnswer the question using a single word or phrase.", "red"), ("And now?", "blue")]
    said = [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn)]
    plain = [{**said[0], "value": "Say red."}, *said[1:]]
    records = [{"id": "0", "image": "0.png", "conversations": said}, {"id": "1", "conversations": plain}]
    shutil.copy(data / "0.png", tmp_path)
    (tmp_path / "questions.json").write_text(json.dumps(records))

    def read(*more):
        model_args, data_args, args, _ = training.parse(words(tmp_path, tmp_path / "out", *more))
        return load_records(
            configured.model, configured.tokenizer, configured.image_processor, model_args, data_args, args
        )

    assert len(read()) == 2
    apart = read("--split_turns", True)
    assert len(apart) == 3 and apart.has_image == [True, True, False]
    for index, (_, answer) in enumerate(turns):
        ids, labels = apart.encoded(index)
        assert (ids == IMAGE_TOKEN_INDEX).sum() == 1
        learned = configured.tokenizer.decode(labels[labels != IGNORE_INDEX])
        assert answer in learned and all(other not in learned for _, other in turns if other != answer)
    second = configured.tokenizer.decode([token for token in apart.encoded(1)[0].tolist() if token >= 0])
    assert "And now?" in second and "What is it?" not in second and "single word" in second


# --------------------------------------------------------------------------------------------------------------- flags

# Of LLaVA's scripts/v1_5/finetune_lora.sh, as published.
PUBLISHED = """--lora_enable True --lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5 --deepspeed ./scripts/zero3.json
--model_name_or_path lmsys/vicuna-13b-v1.5 --version v1 --data_path ./playground/data/llava_v1_5_mix665k.json
--image_folder ./playground/data --vision_tower openai/clip-vit-large-patch14-336
--pretrain_mm_mlp_adapter ./checkpoints/llava-v1.5-13b-pretrain/mm_projector.bin --mm_projector_type mlp2x_gelu
--mm_vision_select_layer -2 --mm_use_im_start_end False --mm_use_im_patch_token False --image_aspect_ratio pad
--group_by_modality_length True --bf16 True --output_dir ./checkpoints/llava-v1.5-13b-lora --num_train_epochs 1
--per_device_train_batch_size 16 --per_device_eval_batch_size 4 --gradient_accumulation_steps 1 --evaluation_strategy no
--save_strategy steps --save_steps 50000 --save_total_limit 1 --learning_rate 2e-4 --weight_decay 0. --warmup_ratio 0.03
--lr_scheduler_type cosine --logging_steps 1 --tf32 True --model_max_length 2048 --gradient_checkpointing True
--dataloader_num_workers 4 --lazy_preprocess True --report_to wandb"""
KNOWN = """model_name_or_path version freeze_backbone tune_mm_mlp_adapter vision_tower mm_vision_select_layer
pretrain_mm_mlp_adapter mm_projector_type mm_use_im_start_end mm_use_im_patch_token mm_patch_merge_type
mm_vision_select_feature data_path lazy_preprocess is_multimodal image_folder image_aspect_ratio cache_dir
freeze_mm_mlp_adapter model_max_length double_quant quant_type bits lora_enable lora_r lora_alpha lora_dropout
lora_weight_path lora_bias mm_projector_lr group_by_modality_length reduction use_fast_v fast_v_attention_rank"""


def test_published_flags_are_understood():
    given = training.parser().parse_args(PUBLISHED.split())
    assert (given.eval_strategy, given.warmup_ratio, given.lora_r, given.mm_vision_select_layer) == (
        "no",
        0.03,
        128,
        -2,
    )
    options = {option for action in training.parser()._actions for option in action.option_strings}
    assert {f"--{name}" for name in KNOWN.split()} <= options
    with pytest.raises(SystemExit):
        training.parser().parse_args([*PUBLISHED.split(), "--reduct", "x"])


def test_renamed_flags_do_what_they_did(data, tmp_path):
    *_, args, knobs = training.parse(
        words(data, tmp_path, "--warmup_ratio", 0.5, "--use-fast-v", "--evaluation_strategy", "no")
    )
    assert args.get_warmup_steps(10) == 5 and knobs == {"use_fast_v": True}


def test_a_cache_folder_is_used(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training.huggingface_hub.constants, "HF_HUB_CACHE", "before")
    with pytest.raises(FileNotFoundError, match="some/model"):
        run(data, tmp_path, "--cache_dir", tmp_path / "hub", model="some/model")
    assert training.huggingface_hub.constants.HF_HUB_CACHE == str(tmp_path / "hub")


# ------------------------------------------------------------------------------------------------------ order and rates


def test_the_order_depends_on_seed_and_epoch_alone():
    orders = [EpochSampler(50, seed) for seed in (0, 0, 1)]
    assert list(orders[0]) == list(orders[1]) != list(orders[2])
    orders[0].set_epoch(1)
    assert list(orders[0]) != list(orders[1]) and sorted(orders[0]) == list(range(50))


def test_steps_are_of_one_kind_and_batches_of_like_length():
    lengths = [(index * 37) % 101 for index in range(103)]
    has_image = [index % 3 > 0 for index in range(103)]
    sampler = EpochSampler(103, 0, lengths, has_image, batch=4, step=8)
    order = list(sampler)
    assert sorted(order) == list(range(103)) and len(sampler) == 103
    steps = [order[start : start + 8] for start in range(0, 103, 8)]
    kinds = [{has_image[index] for index in step} for step in steps]
    full = sum(has_image.count(kind) // 8 for kind in (True, False))
    assert all(len(kind) == 1 for kind in kinds[:full]) and kinds[0] | kinds[1] | kinds[2] | kinds[3] == {True, False}
    for step in steps[:full]:
        one, other = (sorted(lengths[index] for index in part) for part in (step[:4], step[4:]))
        assert one[-1] <= other[0] or other[-1] <= one[0]
    sampler.set_epoch(1)
    assert list(sampler) != order


def test_a_batch_sampler_over_it_tells_it_the_epoch(data, tmp_path):
    """What no process tells it, the trainer's callback does: also where accelerate skips batches for a resumed run."""
    trainer = run(data, tmp_path, *SHORT, "--num_train_epochs", 2, "--freeze_backbone", True, steps=-1)
    sampler = next(callback.sampler for callback in trainer.callback_handler.callbacks if hasattr(callback, "sampler"))
    assert sampler.epoch == 1 and len(list(BatchSampler(sampler, 2, False))) == 3


def test_a_rate_of_its_own():
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(4)]
    groups = [{"params": weights[:2], "weight_decay": 0.1}, {"params": weights[2:3], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    set_rate(optimizer, [weights[1], weights[2], weights[3]], 0.5)
    found = [(group["params"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert found == [([weights[0]], 1.0, 0.1), ([weights[1]], 0.5, 0.1), ([weights[2]], 0.5, 0.0)]

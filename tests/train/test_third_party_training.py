"""Trainings as users of LLaVA write them: their own script around its dataset, collator, trainer and helpers."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from llava import conversation as conversation_lib
from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.mm_utils import tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM
from tests.conftest import PARITY15

CHECKPOINT = str(PARITY15 / "checkpoint")


@pytest.fixture(autouse=True)
def the_template_of_v15(monkeypatch):
    """As LLaVA's train() sets it from --version v1."""
    monkeypatch.setattr(conversation_lib, "default_conversation", conversation_lib.conv_templates["v1"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three records with a picture and one without."""
    folder = tmp_path_factory.mktemp("records")
    records = []
    for number in range(3):
        Image.new("RGB", (40, 20 + number), (200, 40 * number, 30)).save(folder / f"{number}.png")
        turns = [{"from": "human", "value": "What is it?\n<image>"}, {"from": "gpt", "value": f"Picture {number}"}]
        records.append({"id": number, "image": f"{number}.png", "conversations": turns})
    turns = [{"from": "human", "value": "One and one?"}, {"from": "gpt", "value": "Two"}]
    (folder / "data.json").write_text(json.dumps([*records, {"id": 3, "conversations": turns}]))
    return folder


@pytest.fixture
def data_args(folder, llava15):
    from llava.train.train import DataArguments

    data_args = DataArguments(data_path=str(folder / "data.json"), image_folder=str(folder))
    data_args.image_processor = llava15.image_processor
    data_args.is_multimodal, data_args.mm_use_im_start_end = True, False
    return data_args


def training_args(output, **more):
    from llava.train.train import TrainingArguments

    given = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "save_strategy": "no"}
    return TrainingArguments(output_dir=str(output), use_cpu=True, disable_tqdm=True, report_to=[], **given, **more)


def test_preprocess_as_a_dataset_of_their_own_calls_it(llava15, data_args):
    from llava.train.train import preprocess, preprocess_multimodal

    source = {"conversations": [{"from": "human", "value": "Why?\n<image>"}, {"from": "gpt", "value": "So."}]}
    sources = preprocess_multimodal(copy.deepcopy([source["conversations"]]), data_args)
    assert sources[0][0]["value"] == "<image>\nWhy?"
    found = preprocess(sources, llava15.tokenizer, has_image=True)
    ids, labels = found["input_ids"][0], found["labels"][0]
    conv = conversation_lib.default_conversation.copy()
    conv.append_message(conv.roles[0], "<image>\nWhy?")
    conv.append_message(conv.roles[1], "So.")
    assert ids.tolist() == tokenizer_image_token(conv.get_prompt(), llava15.tokenizer)
    answer = llava15.tokenizer("So.</s>", add_special_tokens=False).input_ids
    assert labels[labels != IGNORE_INDEX].tolist() == answer
    assert source["conversations"][0]["value"] == "Why?\n<image>"


def test_marks_around_images_are_put_once(llava15, data_args):
    from llava.train.train import preprocess, preprocess_multimodal

    data_args.mm_use_im_start_end = True
    turns = [{"from": "human", "value": "Why?\n<image>"}, {"from": "gpt", "value": "So."}]
    sources = preprocess_multimodal([turns], data_args)
    assert sources[0][0]["value"] == "<im_start><image><im_end>\nWhy?"
    ids = preprocess(sources, llava15.tokenizer, has_image=True)["input_ids"][0]
    conv = conversation_lib.default_conversation.copy()
    conv.append_message(conv.roles[0], "<im_start><image><im_end>\nWhy?")
    conv.append_message(conv.roles[1], "So.")
    assert ids.tolist() == tokenizer_image_token(conv.get_prompt(), llava15.tokenizer)


def test_preprocess_says_what_is_wrong(llava15):
    from llava.train.train import preprocess, preprocess_plain, preprocess_v1

    turns = [{"from": "human", "value": "<image>\nWhy?"}, {"from": "gpt", "value": "So."}]
    with pytest.raises(ValueError, match="dialogue 1 has an <image>; give has_image=True"):
        preprocess([turns], llava15.tokenizer)
    with pytest.raises(ValueError, match="dialogue 1 turn 1 is from"):
        preprocess_v1([turns[1:]], llava15.tokenizer)
    with pytest.raises(ValueError, match="of style TWO, not PLAIN"):
        preprocess_plain([turns], llava15.tokenizer)


def test_preprocess_pads_several_dialogues(llava15):
    from llava.train.train import preprocess_v1

    dialogues = [[{"from": "human", "value": "Why?"}, {"from": "gpt", "value": text}] for text in ("a", "a b c d")]
    found = preprocess_v1(dialogues, llava15.tokenizer)
    alone = preprocess_v1(dialogues[:1], llava15.tokenizer)["input_ids"][0]
    assert found["input_ids"].shape == found["labels"].shape and len(alone) < found["input_ids"].shape[1]
    assert found["input_ids"][0, : len(alone)].tolist() == alone.tolist()
    assert (found["labels"][0, len(alone) :] == IGNORE_INDEX).all()


def test_the_dataset_and_a_collator_of_their_own(llava15, data_args):
    from llava.train.train import DataCollatorForSupervisedDataset, LazySupervisedDataset

    dataset = LazySupervisedDataset(tokenizer=llava15.tokenizer, data_path=data_args.data_path, data_args=data_args)
    assert len(dataset.list_data_dict) == 4 and [length > 0 for length in dataset.modality_lengths] == [True] * 3 + [
        False
    ]
    assert dataset[0]["image"].shape == (3, 336, 336) and "image" not in dataset[3]
    assert (dataset[0]["input_ids"] == IMAGE_TOKEN_INDEX).sum() == 1
    collate = DataCollatorForSupervisedDataset(tokenizer=llava15.tokenizer)
    batch = collate([dataset[0], dataset[3]])
    assert batch["images"].shape == (1, 3, 336, 336) and batch["image_sizes"] == [(40, 20)]
    bare = [{name: dataset[number][name] for name in ("input_ids", "labels", "image")} for number in (0, 1)]
    batch = collate(bare)
    assert batch["images"].shape == (2, 3, 336, 336) and "image_sizes" not in batch
    llava15.model(**batch)
    short = copy.copy(llava15.tokenizer)
    short.model_max_length = 5
    assert DataCollatorForSupervisedDataset(short)(bare)["input_ids"].shape == (2, 5)


def test_a_dataset_without_a_processor_says_so(llava15, data_args):
    from llava.train.train import make_supervised_data_module

    data_args.image_processor = None
    with pytest.raises(ValueError, match="data_args.image_processor is not set"):
        make_supervised_data_module(tokenizer=llava15.tokenizer, data_args=data_args)


def test_a_script_that_trains_the_projector(llava15, data_args, tmp_path):
    from llava.train.llava_trainer import LLaVATrainer
    from llava.train.train import make_supervised_data_module, safe_save_model_for_hf_trainer

    args = training_args(tmp_path, group_by_modality_length=True)
    model = LlavaLlamaForCausalLM.from_pretrained(CHECKPOINT)
    model.config.use_cache = False
    model.get_model().get_vision_tower().load_model()
    model.config.tokenizer_padding_side = "right"
    model.requires_grad_(False)
    for weight in model.get_model().mm_projector.parameters():
        weight.requires_grad = True
    data_args.data_path = str(Path(data_args.data_path).with_name("pictures.json"))
    records = json.loads(Path(data_args.data_path).with_name("data.json").read_text())
    Path(data_args.data_path).write_text(json.dumps(records[:3]))
    data_module = make_supervised_data_module(tokenizer=llava15.tokenizer, data_args=data_args)
    trainer = LLaVATrainer(model=model, tokenizer=llava15.tokenizer, args=args, **data_module)
    trainer.train()
    trainer.save_state()
    safe_save_model_for_hf_trainer(trainer=trainer, output_dir=args.output_dir)
    stored = torch.load(tmp_path / "mm_projector.bin", weights_only=True)
    assert set(stored) == {name for name, weight in model.named_parameters() if weight.requires_grad}
    before = llava15.model.get_model().mm_projector.state_dict()
    assert not torch.equal(stored["model.mm_projector.0.weight"], before["0.weight"])


def test_a_script_that_saves_its_lora_by_hand(llava15, tmp_path):
    peft = pytest.importorskip("peft")
    from llava.train.train import (
        find_all_linear_names,
        get_mm_adapter_state_maybe_zero_3,
        get_peft_state_maybe_zero_3,
        get_peft_state_non_lora_maybe_zero_3,
    )

    model = LlavaLlamaForCausalLM.from_pretrained(CHECKPOINT)
    model.get_model().get_vision_tower().load_model()
    targets = find_all_linear_names(model)
    assert targets and not any(
        "vision_tower" in name or "mm_projector" in name or "lm_head" in name for name in targets
    )
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, bias="none", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    for name, weight in model.named_parameters():
        weight.requires_grad = weight.requires_grad or "mm_projector" in name
        if "lora_B" in name or "mm_projector" in name:
            weight.data += 0.01
    assert len(get_mm_adapter_state_maybe_zero_3(model.named_parameters(), ["mm_projector"])) == 4
    state_dict = get_peft_state_maybe_zero_3(model.named_parameters(), "none")
    model.config.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, state_dict=state_dict)
    torch.save(get_peft_state_non_lora_maybe_zero_3(model.named_parameters()), tmp_path / "non_lora_trainables.bin")
    _, loaded, _, _ = load_pretrained_model(str(tmp_path), CHECKPOINT, "llava-lora", device="cpu")
    ids = torch.tensor([[1, 5, 9, 11]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(input_ids=ids).logits, atol=1e-4, rtol=0)
        assert not torch.allclose(loaded(ids).logits, llava15.model(ids).logits, atol=1e-2)


def test_weights_divided_by_zero_3_are_refused():
    from llava.train.train import get_peft_state_maybe_zero_3, maybe_zero_3

    weight = torch.nn.Parameter(torch.ones(2))
    assert maybe_zero_3(weight, ignore_status=True).requires_grad is False
    weight.ds_id = 1
    with pytest.raises(NotImplementedError, match="trainer.save_model"):
        maybe_zero_3(weight, name="w")
    with pytest.raises(ValueError, match="bias='some' is unknown"):
        get_peft_state_maybe_zero_3([], "some")


def test_biases_of_a_lora():
    from llava.train.train import get_peft_state_maybe_zero_3

    weights = {name: torch.ones(1) for name in ("a.lora_A.default.weight", "a.base_layer.bias", "b.bias", "b.weight")}
    found = {bias: set(get_peft_state_maybe_zero_3(weights.items(), bias)) for bias in ("none", "lora_only", "all")}
    assert found["none"] == {"a.lora_A.default.weight"} and found["lora_only"] == found["none"] | {"a.base_layer.bias"}
    assert found["all"] == found["lora_only"] | {"b.bias"}


def test_tokens_are_added_with_the_mean_of_the_old():
    from llava.train.train import smart_tokenizer_and_embedding_resize

    tokenizer, model, _, _ = load_pretrained_model(CHECKPOINT, device="cpu")
    old = model.get_input_embeddings().weight.detach().clone()
    smart_tokenizer_and_embedding_resize({"pad_token": "[PAD]"}, tokenizer, model)
    new = model.get_input_embeddings().weight
    assert len(new) == len(old) + 1 == len(tokenizer) and tokenizer.pad_token == "[PAD]"
    assert torch.equal(new[:-1], old) and torch.allclose(new[-1], old.mean(0)) and model.config.vocab_size == len(new)


class OwnDataset(Dataset):
    """Says how long its records are as LLaVA's does."""

    modality_lengths = [5, -2, 7, -9, 3, -1, 6, -4]

    def __len__(self):
        return 8


def test_groups_of_one_modality_by_their_own_lengths(llava15, tmp_path):
    from llava.train.llava_trainer import LengthGroupedSampler, LLaVATrainer, get_length_grouped_indices

    lengths = OwnDataset.modality_lengths
    sampler = LengthGroupedSampler(2, world_size=1, lengths=lengths, group_by_modality=True)
    torch.manual_seed(0)
    orders = [list(sampler) for _ in range(5)]
    args = training_args(tmp_path, group_by_modality_length=True)
    trainer = LLaVATrainer(model=llava15.model, tokenizer=llava15.tokenizer, args=args, train_dataset=OwnDataset())
    orders.append(list(trainer._get_train_sampler()))
    for order in orders:
        assert sorted(order) == list(range(8))
        assert all((lengths[a] > 0) == (lengths[b] > 0) for a, b in zip(order[::2], order[1::2]))
    assert len({tuple(order) for order in orders}) > 1
    seeded = [get_length_grouped_indices([3, 1, 2, 4], 2, 1, torch.Generator().manual_seed(4)) for _ in range(2)]
    assert seeded[0] == seeded[1] and {frozenset(seeded[0][:2]), frozenset(seeded[0][2:])} == {
        frozenset({0, 3}),
        frozenset({1, 2}),
    }
    with pytest.raises(ValueError, match="length 0"):
        LengthGroupedSampler(2, 1, [1, 0], group_by_modality=True)


def test_outputs_that_are_asked_for_have_logits(llava15, data_args, tmp_path):
    from llava.train.llava_trainer import LLaVATrainer
    from llava.train.train import make_supervised_data_module

    class Theirs(LLaVATrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
            seen.append(outputs.logits.shape[-1])
            return (loss, outputs) if return_outputs else loss

    seen: list[int] = []
    module = make_supervised_data_module(llava15.tokenizer, data_args)
    args = training_args(tmp_path)
    trainer = Theirs(model=llava15.model, tokenizer=llava15.tokenizer, args=args, **module)
    trainer.compute_loss(trainer.model, module["data_collator"]([module["train_dataset"][0]]))
    llava15.model.eval()
    assert seen == [llava15.model.config.vocab_size] and trainer.layout == "whole"


@pytest.mark.parametrize("name", ["train", "train_mem"])
def test_a_door_of_their_own_reads_the_command_line(name, folder, tmp_path, monkeypatch):
    import importlib

    from llava.train import train as training

    seen = []
    monkeypatch.setattr(training, "load_model", lambda *given: seen.append(given) or pytest.skip.Exception("stop"))
    flags = f"--model_name_or_path {CHECKPOINT} --version v1 --data_path {folder}/data.json --output_dir {tmp_path}"
    monkeypatch.setattr(sys, "argv", ["train_mem.py", *flags.split(), "--use_cpu", "True", "--reduction", "fastv@2:64"])
    with pytest.raises(TypeError):  # what stands in for the model is none
        importlib.import_module(f"llava.train.{name}").train(attn_implementation="eager")
    (model_args, args, knobs, attention) = seen[0]
    assert (model_args.version, args.output_dir, attention) == ("v1", str(tmp_path), "eager")
    assert knobs == {"reduction": "fastv@2:64"}
    with pytest.raises(ValueError, match="give model_args, data_args and args, or none"):
        training.train(model_args)


def test_arguments_of_their_own_on_top_of_llavas(folder, tmp_path):
    import transformers

    from llava.train.train import DataArguments, ModelArguments, TrainingArguments

    @dataclass
    class OwnArguments(ModelArguments):
        prune_ratio: float = field(default=0.5)

    parser = transformers.HfArgumentParser((OwnArguments, DataArguments, TrainingArguments))
    flags = ["--model_name_or_path", CHECKPOINT, "--data_path", "d.json", "--output_dir", str(tmp_path), "--use_cpu"]
    own, _, _ = parser.parse_args_into_dataclasses([*flags, "--prune_ratio", "0.25"])
    assert own.prune_ratio == 0.25 and SimpleNamespace(**vars(own)).version == "v0"

"""Two machines: LLaVA's training learns on them as on one, and the files that divide a model among GPUs are what they must be.

Evaluation and the training of mergers on several are tested where they are.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from accelerate.commands.config import load_config_from_file
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from transformers import LlamaForCausalLM

from llava.shapes.export import export
from llava.train import train as training
from tests.conftest import PARITY15, in_processes

SCRIPTS = Path(__file__).parents[1] / "scripts"


def test_two_machines_learn_what_one_learns(tmp_path):
    """Two prompts a step: of one process, and one of each machine, which saves once."""
    data = export("llava", tmp_path / "data", images=4)
    flags = [
        "--model_name_or_path", str(PARITY15 / "checkpoint"), "--version", "v1", "--data_path",
        str(data / "llava_shapes.json"), "--image_folder", str(data / "images"), "--max_steps", "2", "--save_strategy", "no",
        "--logging_steps", "1", "--disable_tqdm", "True", "--learning_rate", "1e-2", "--use_cpu", "True",
        "--reduction", "pool@features:16",
    ]  # fmt: skip
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    training.train(*training.parse([*flags, "--per_device_train_batch_size", "2", "--output_dir", str(alone)]))
    several = [*flags, "--per_device_train_batch_size", "1", "--output_dir", str(shared)]
    in_processes(2, "llava.train.train", *several, machines=2)
    learnt = {}
    for folder in (alone, shared):
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        learnt[folder] = [(line["loss"], line["grad_norm"]) for line in history if "loss" in line]
    assert len(learnt[alone]) == 2
    for one, two in zip(learnt[alone], learnt[shared], strict=True):
        assert two == pytest.approx(one, rel=1e-3)
    assert {path.name for path in shared.iterdir()} == {path.name for path in alone.iterdir()}


@pytest.mark.parametrize(
    ("name", "stage", "offloads"), [("zero2", 2, False), ("zero3", 3, False), ("zero3_offload", 3, True)]
)
def test_what_deepspeed_is_told(name, stage, offloads):
    config = HfDeepSpeedConfig(str(SCRIPTS / f"{name}.json"))
    assert (config.get_value("zero_optimization.stage"), config.is_offload()) == (stage, offloads)
    assert {config.get_value(key) for key in ("train_micro_batch_size_per_gpu", "bf16.enabled")} == {"auto"}


def test_what_fsdp_is_told():
    config = load_config_from_file(str(SCRIPTS / "fsdp.yaml"))
    assert config.distributed_type == "FSDP" and config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
    wrapped = config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"]
    assert LlamaForCausalLM._no_split_modules == [wrapped]
    inline = (SCRIPTS / "v1_5/finetune.sh").read_text(encoding="utf-8")
    assert all(f"--{key} {str(value).lower()}" in inline.lower() for key, value in config.fsdp_config.items())

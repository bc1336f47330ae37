"""What several tests share: a tiny random LLaVA-1.5 in the published layout, and what the official code did with it.

`data/parity_llava15` holds checkpoint, pictures and the official float32 outputs (`llava.json`).
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before anything asks the hub for a file.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as llava.threads does where PyTorch is not imported before it

import pytest
import torch
from PIL import Image

from llava.mm_utils import load_image, process_images
from llava.model.builder import load_pretrained_model

PARITY15 = Path(__file__).parent / "data" / "parity_llava15"
PARITY = Path(os.environ.get("PARITY", Path(__file__).parents[2] / "shared" / "parity"))
PARITY16 = PARITY / "llava16-anyres"


def in_processes(count: int, *words: str, machines: int = 1) -> None:
    """Run ``python -m ...`` on the CPU in so many processes, as ``accelerate launch`` does on each of so many machines.

    The machines are this one under several ranks, which meet on the loopback. Without ``--multi_gpu`` accelerate starts one
    process whatever number it is given; on a machine without GPUs the processes are CPU processes.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [
        "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(count), "--num_machines", str(machines),
        "--main_process_ip", "127.0.0.1", "--main_process_port", str(port), "--mixed_precision", "no",
        "--dynamo_backend", "no",
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    running = []
    for rank in range(machines):
        command = [sys.executable, *launch, "--machine_rank", str(rank), "-m", *words]
        running.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    try:
        said = [process.communicate(timeout=300)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * machines, "\n".join(text[-2000:] for text in said)


@dataclass
class World:
    """A loaded checkpoint and its folder of pictures and expected outputs."""

    folder: Path
    tokenizer: Any
    model: Any
    image_processor: Any
    context_len: int

    @classmethod
    def load(cls, folder: Path, **knobs: Any) -> World:
        return cls(folder, *load_pretrained_model(folder / "checkpoint", None, "llava", device="cpu", **knobs))

    def cases(self) -> list[dict[str, Any]]:
        return json.loads((self.folder / "llava.json").read_text())

    def images(self, case: dict[str, Any]) -> list[Image.Image]:
        return [load_image(self.folder / f"image{number}.png") for number in case["images"]]

    def inputs(self, case: dict[str, Any]) -> dict[str, Any]:
        """Keywords of `generate` and `forward` for a case, from its stored ids."""
        images = self.images(case)
        return {
            "input_ids": torch.tensor([case["input_ids"]]),
            "images": process_images(images, self.image_processor, self.model.config) if images else None,
            "image_sizes": [image.size for image in images] or None,
        }


@pytest.fixture(scope="session")
def llava15() -> World:
    """LLaVA-1.5, shared by the whole session: tests leave model and config as they found them."""
    return World.load(PARITY15)


@pytest.fixture(scope="session")
def llava16() -> World:
    """LLaVA-1.6 with anyres, where the parity folder lies beside the repository."""
    if not PARITY16.is_dir():
        pytest.skip(f"{PARITY16} is not there")
    return World.load(PARITY16)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the LLaVA-1.5 checkpoint that a test may damage."""
    return Path(shutil.copytree(PARITY15 / "checkpoint", tmp_path / "checkpoint"))


@pytest.fixture
def configured(llava15: World):
    """The shared model, its config free to change: it is put back afterwards."""
    before = copy.deepcopy(vars(llava15.model.config))
    yield llava15
    vars(llava15.model.config).clear()
    vars(llava15.model.config).update(before)

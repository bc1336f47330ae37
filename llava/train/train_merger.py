"""Train a merger of visual tokens; tower, projector and language model stay as they are.

    python -m llava.train.train_merger --config configs/vision_token_pruning.yaml
    accelerate launch --multi_gpu --num_processes 2 -m llava.train.train_merger --config ... --set training_settings.steps=3000

The loss is the answer's cross-entropy with the merger in place, plus, against the same model with every token, the KL
divergence of the answer's logits and, where weighted, the squared distance of the last hidden states. Written to
``training_settings.output``: ``merger.safetensors`` and ``merger.json`` (a plan names the folder: ``merger:64,weights=FOLDER``),
``settings.yaml``, ``metrics.jsonl``, ``loss.png``, and ``checkpoint.pt`` while it runs. Given again, the command
resumes from there, and what a step draws depends on the seed and its number alone, so a stopped run ends as one that
was not. What was trained with the same settings on the same weights is left as it is; another's folder is refused.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator

from llava.cli.console import progress_bar, terminal
from llava.files import read_json
from llava.model.builder import load_pretrained_model, read_config
from llava.model.checkpoint import find_folder, fingerprint
from llava.model.language_model.llava_family import LlavaFamilyForCausalLM
from llava.model.language_model.reduction_knobs import REDUCTION_KNOBS
from llava.reduction.learned.trained import ABOUT, save_trained, trained_plan
from llava.utils import exit_code

from .checkpoints import writing
from .merger.examples import TrainingExamples
from .merger.loop import FINGERPRINT, TrainingLoop, deciding_settings, require_same_training
from .merger.metrics import draw_loss, read_metrics
from .merger.module import TrainableMerger, build
from .merger.settings import DataSettings, MllmSettings, Settings, read_settings
from .trainable import require_tower

logger = logging.getLogger(__name__)

SETTINGS = "settings.yaml"
GENERATED = "llava_shapes.json"  # the name that the embedded world's export gives its conversations


def train(settings: Settings) -> Path:
    """Train as the settings say, and return the folder that a plan can name.

    Raises ValueError and OSError for settings, data and files that do not fit, FloatingPointError for a loss that is
    not a number.
    """
    training, mllm = settings.training_settings, settings.backbone_settings.mllm_settings
    # Without a GPU and without this setting, processes do not know of each other.
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    if training.batch_size % (accelerator.num_processes * training.gradient_accumulation):
        raise ValueError(
            f"training_settings.batch_size={training.batch_size} must be a multiple of {accelerator.num_processes} "
            f"processes x gradient_accumulation={training.gradient_accumulation}"
        )
    deciding = deciding_settings(settings, fingerprint(find_folder(mllm.model_path, "model")))
    if _is_trained(Path(training.output), deciding):
        logger.info("%s is trained so already; remove it to train it again", training.output)
        return Path(training.output)
    _check_data(settings.data_settings)
    Path(training.output).mkdir(parents=True, exist_ok=True)
    tokenizer, model, image_processor = _load_frozen(mllm, accelerator)
    examples = TrainingExamples(settings, model, tokenizer, image_processor)
    tokens = require_tower(model).num_patches
    merger = build(settings, model.config.mm_hidden_size, model.config.hidden_size, tokens)
    loop = TrainingLoop(settings, merger, examples, accelerator, deciding)
    with progress_bar(terminal(), accelerator.is_main_process) as progress:
        loop.run(progress)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _save(settings, merger, loop)
    return Path(training.output)


def _is_trained(folder: Path, deciding: dict[str, Any]) -> bool:
    """Whether a folder holds what such a training has written; ValueError for what another one has."""
    if not (folder / ABOUT).is_file() or not (folder / SETTINGS).is_file():
        return False
    # A folder from before fingerprints were written is taken at its word.
    weights = read_json(folder / ABOUT).get(FINGERPRINT, deciding[FINGERPRINT])
    require_same_training(folder / ABOUT, deciding_settings(read_settings(folder / SETTINGS), weights), deciding)
    return True


def _check_data(data: DataSettings) -> None:
    """Refuses conversations that are not there, and says how the embedded world's are made."""
    file = Path(data.data_path)
    if file.name == GENERATED and not file.exists():
        raise FileNotFoundError(
            f"data_settings.data_path={str(file)!r} does not exist; make it with python -m llava.shapes.export --format "
            f"llava --images {data.images} --output {file.parent}"
        )


def _load_frozen(mllm: MllmSettings, accelerator: Accelerator) -> tuple[Any, LlavaFamilyForCausalLM, Any]:
    """`(tokenizer, model, image_processor)` of a model with every token and nothing that learns."""
    config = read_config(find_folder(mllm.model_path, "model"))
    if any(getattr(config, knob) for knob in REDUCTION_KNOBS if knob == "reduction" or knob.startswith("use_")):
        raise ValueError(
            f"{mllm.model_path} has a reduction in its config; a merger is trained against the model with every token"
        )
    device = accelerator.device if accelerator.device.type == "cuda" else "cpu"
    tokenizer, model, image_processor, _ = load_pretrained_model(
        mllm.model_path, mllm.model_base, device=device, torch_dtype=mllm.dtype
    )
    require_tower(model)
    model.requires_grad_(False).eval()
    return tokenizer, model, image_processor


def _save(settings: Settings, merger: TrainableMerger, loop: TrainingLoop) -> None:
    """Write the trained module, the settings as they were, and the drawing of the loss."""
    model_path, folder = settings.backbone_settings.mllm_settings.model_path, loop.folder
    merger.anneal(1.0)
    about = {
        "plan": merger.stage,
        "model": model_path,
        "steps": settings.training_settings.steps,
        "budgets": settings.budgets,
        FINGERPRINT: loop.deciding[FINGERPRINT],
    }
    with writing(folder, loop.last_checkpoint()):
        content = yaml.safe_dump(settings.model_dump(), sort_keys=False)
        (folder / SETTINGS).write_text(content, encoding="utf-8")
        title = f"{settings.method_settings.merger_type} on {Path(model_path).name}"
        draw_loss(read_metrics(loop.metrics), title).savefig(folder / "loss.png")
        save_trained(merger.module, folder, merger.arguments, **about)  # the last file: where it is, all are
    logger.info("wrote %s; a plan names it: %s", folder, trained_plan(folder, settings.budgets[0]))


def parser() -> argparse.ArgumentParser:
    """The configuration, and changes to it."""
    flags = argparse.ArgumentParser(prog="llava train-merger", description="Train a merger of visual tokens.")
    flags.add_argument("--config", type=Path, required=True, help="YAML, such as configs/vision_token_pruning.yaml")
    flags.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of it; repeatable")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input or a loss that is not a number, 130 when stopped by Ctrl-C."""
    options = parser().parse_args(arguments)
    stopped = "stopped; the same command resumes from the last checkpoint"
    failures = (ValueError, OSError, FloatingPointError)
    return exit_code(lambda: train(read_settings(options.config, options.set)), failures, stopped)


if __name__ == "__main__":
    sys.exit(main())

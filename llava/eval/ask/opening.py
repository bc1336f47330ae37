"""The one opener of an evaluation: model, template and questions are checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from llava.cli.loading import load_model
from llava.cli.settings import EvalSettings, ModelSpec
from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import OTHER_DECODERS, conversation_mode
from llava.model.builder import read_config
from llava.model.checkpoint import find_folder, fingerprint
from llava.model.language_model.llava_family import LlavaFamilyConfig
from llava.model.multimodal_encoder.opening import load_vision_config, vision_config
from llava.model.multimodal_encoder.processor import picture_side
from llava.model.multimodal_encoder.scales import stated_scales
from llava.model.tokenizer import load_tokenizer

from ..tasks.base import Task, get_task, share_of
from .subject import LlavaSubject, prompt_ids


@dataclass(frozen=True)
class Checkpoint:
    """A model that is found and read but not loaded: its spec, folder, config, and the template it is asked with."""

    spec: ModelSpec
    folder: Path
    config: LlavaFamilyConfig
    conv_mode: str

    @property
    def layers(self) -> int:
        """Depth of the decoder."""
        return self.config.num_hidden_layers

    @cached_property
    def tokens(self) -> int | None:
        """Visual tokens of every picture without reduction; None where pictures are cut into crops, so that they differ."""
        return tokens_of_picture(self.folder, self.config)

    def fingerprints(self) -> dict[str, str]:
        """Checksums of the checkpoint, and of its base and its tower where they lie elsewhere."""
        inside = self.folder.resolve()
        checksums = {"fingerprint": fingerprint(self.folder)}
        for name, path in (("base", self.spec.base), ("tower", self.config.mm_vision_tower)):
            if path is None:
                continue
            nearby = self.folder / str(path)
            folder = nearby if nearby.is_dir() and name == "tower" else Path(path).expanduser()
            if not folder.resolve().is_relative_to(inside):
                checksums[f"{name}_fingerprint"] = fingerprint(folder)
        return checksums

    def prompt_ids(self, text: str, has_picture: bool = True) -> list[int]:
        """The ids of a question in the template."""
        return prompt_ids(self._tokenizer, self.config, self.conv_mode, text, has_picture)

    def span(self, text: str) -> tuple[int, int | None]:
        """Where the picture begins in the prompt of a question, and how many tokens it has (None: they differ)."""
        return self.prompt_ids(text).index(IMAGE_TOKEN_INDEX), self.tokens

    def subject(self, device: torch.device | str | None = None) -> LlavaSubject:
        """The model, loaded without a plan, on ``device`` unless the spec names one."""
        spec = self.spec if device is None or self.spec.device else replace(self.spec, device=str(device))
        tokenizer, model, image_processor, _ = load_model(spec)
        return LlavaSubject(tokenizer, model, image_processor, self.conv_mode)

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.folder if self.spec.base is None else find_folder(self.spec.base, "model_base"))


def open_checkpoint(spec: ModelSpec) -> Checkpoint:
    """Find a model, read its config and settle its template; nothing is loaded.

    The first that names a template decides: the spec's ``conv_mode``, the checkpoint's, ``usual_conv_mode`` (not for a model
    over Mistral, Qwen2 or Llama-3, whose name or type says what it was trained on), the model's name. Raises FileNotFoundError and ValueError as ``load_pretrained_model`` does, and ValueError for an unknown template.
    """
    folder = find_folder(spec.path, "model")
    config = read_config(folder)
    own = conversation_mode(spec.name, config)
    usual = None if getattr(config, "conv_mode", None) or own in OTHER_DECODERS else spec.usual_conv_mode
    return Checkpoint(spec, folder, config, conversation_mode(spec.name, config, spec.conv_mode or usual))


@dataclass(frozen=True)
class Evaluation:
    """What ``open_evaluation`` opened: the settings, the model, and the benchmark's questions."""

    settings: EvalSettings
    model: Checkpoint
    task: Task

    @property
    def results(self) -> Path:
        """The folder of the runs."""
        return Path(self.settings.results or Path("playground/results") / self.task.name)

    @property
    def about(self) -> str:
        """Model and number of questions, for a title."""
        return f"{self.model.spec.name}, {len(self.task.examples)} questions"


def open_evaluation(settings: EvalSettings) -> Evaluation:
    """Open the model and the questions of an evaluation; nothing is loaded or computed.

    Raises ValueError and FileNotFoundError that name the argument or the file.
    """
    model = open_checkpoint(settings.model)
    task = get_task(settings.task)(settings.data, settings.limit, settings.images, settings.truth)
    task.examples = share_of(task.examples, *settings.share)
    if not settings.instructed:
        task.instructed = False
    return Evaluation(settings, model, task)


def tokens_of_picture(folder: Path, config: LlavaFamilyConfig) -> int | None:
    """Visual tokens of every picture without reduction; None for a model that cuts pictures into crops, where they differ."""
    if "anyres" in (getattr(config, "image_aspect_ratio", None) or ""):
        return None
    inside = getattr(config, "mm_vision_config", None)
    if inside:
        tower = vision_config(inside, "mm_vision_config")
    else:
        tower = load_vision_config(find_folder(config.mm_vision_tower, "vision tower", (folder,), weights=False))
    scales = stated_scales(config)
    side = scales[0] if scales else picture_side(config.mm_vision_tower, (folder,), tower)
    return (side // tower.patch_size) ** 2

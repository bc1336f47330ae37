"""Settings of a merger's training: document 003's YAML keys, each checked, none ignored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from llava.reduction import did_you_mean
from llava.shipped import shipped

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class Loader(yaml.SafeLoader):
    """YAML in which 5e-4 is a number, as in YAML 1.2, without a point before the e."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class Group(BaseModel):
    """A block of keys: unknown ones and values of another kind raise."""

    model_config = ConfigDict(extra="forbid", strict=True)


class MethodSettings(Group):
    """What is trained. ``budgets``: numbers of tokens, one of which each step draws; None is ``merge_ratio`` alone.

    ``use_question``: whether V3 reads the question; None is no. V2 always does, V1 never.
    """

    merger_type: Literal["simple", "question_aware", "fixed_pooling", "condensation", "custom_selection"]
    merge_ratio: Count | Share = 0.5
    budgets: list[Count] | None = Field(default=None, min_length=1)
    d_internal: Count = 512
    num_heads: Count = 8
    use_question: bool | None = None
    strategy: Literal["fps", "connectivity", "tome", "dpp"] = "fps"
    layer: Count | None = None

    @model_validator(mode="after")
    def _fits(self) -> MethodSettings:
        if self.layer is not None and self.merger_type not in ("condensation", "custom_selection"):
            raise ValueError(
                f"layer={self.layer} contradicts merger_type={self.merger_type}: it stands before the projector"
            )
        if self.merger_type == "question_aware" and self.use_question is False:
            raise ValueError("use_question=false contradicts merger_type=question_aware; V1 (simple) reads no question")
        return self


class MllmSettings(Group):
    """The frozen model; ``vision_dim`` and ``hidden_dim`` must be its own, None reads them there."""

    model_path: str
    model_base: str | None = None
    conv_mode: str = "vicuna_v1"
    vision_dim: Count | None = None
    hidden_dim: Count | None = None
    dtype: str | None = None


class BackboneSettings(Group):
    """Where the features come from."""

    mllm_settings: MllmSettings


class DataSettings(Group):
    """LLaVA's conversations and their pictures; ``images`` is how many pictures a generated data set has."""

    data_path: str
    image_folder: str
    images: Count = 2000
    split_turns: bool = True
    skip_bad_records: bool = False
    cache: bool = True


class TrainingSettings(Group):
    """How it is trained. ``batch_size`` is that of all processes together, ``warmup`` and ``save_every`` are steps.

    ``feature_layer``: after how many decoder layers the words after the pictures are compared, None is after all of
    them.
    """

    output: str
    steps: Count
    batch_size: Count = 16
    gradient_accumulation: Count = 1
    learning_rate: Positive = 1e-3
    warmup: Annotated[int, Field(ge=0)] = 50
    weight_decay: Weight = 0.01
    answer_weight: Weight = 1.0
    distillation_weight: Weight = 1.0
    distillation_temperature: Positive = 2.0
    feature_weight: Weight = 0.0
    feature_layer: Count | None = None
    max_grad_norm: Positive = 1.0
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    save_every: Count = 100
    seed: int = 0

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _no_for_false(cls, value: object) -> object:
        return "no" if value is False else value  # YAML reads a bare `no` as false

    @model_validator(mode="after")
    def _fits(self) -> TrainingSettings:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"gradient_accumulation={self.gradient_accumulation} must divide batch_size={self.batch_size}"
            )
        if not self.answer_weight + self.distillation_weight + self.feature_weight:
            raise ValueError(
                "answer_weight, distillation_weight and feature_weight are all 0; give one of them a weight"
            )
        return self


class Settings(Group):
    """All of a configuration file."""

    method_settings: MethodSettings
    backbone_settings: BackboneSettings
    data_settings: DataSettings
    training_settings: TrainingSettings

    @property
    def budgets(self) -> Sequence[int | float]:
        """What each step draws from."""
        return self.method_settings.budgets or [self.method_settings.merge_ratio]


def read_settings(file: str | Path, changes: Sequence[str] = ()) -> Settings:
    """The settings of a YAML file, with ``changes`` such as ``training_settings.steps=100`` on top.

    Raises FileNotFoundError, and ValueError naming file and key for one that is unknown, missing, or of another kind.
    """
    file = shipped(file)
    if not file.is_file():
        raise FileNotFoundError(f"--config {file} is not there; configs/vision_token_pruning.yaml is one")
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader)
        for change in changes:
            _change(content, change)
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{file}: {'; '.join(_sentences(error))}") from None


def _change(content: object, change: str) -> None:
    name, equals, value = change.partition("=")
    *groups, last = name.split(".")
    for group in groups:
        content = content.get(group) if isinstance(content, dict) else None
    if not equals or not isinstance(content, dict):
        raise ValueError(f"--set {change} is not understood; write a key and its value, training_settings.steps=100")
    content[last] = yaml.load(value, Loader)


def _fields(groups: Sequence[str]) -> Iterable[str]:
    """The keys that a group may have, named from the top."""
    model: Any = Settings
    for name in groups:
        model = model.model_fields[name].annotation
    return model.model_fields


def _sentences(error: ValidationError) -> Iterable[str]:
    """What is wrong with every key, in a sentence each."""
    for problem in error.errors():
        name = ".".join(map(str, problem["loc"])) or "the file"
        if problem["type"] == "extra_forbidden":
            *groups, key = map(str, problem["loc"])
            yield f"the key {name} is unknown{did_you_mean(key, _fields(groups))}"
        elif problem["type"] == "missing":
            yield f"the key {name} is missing"
        else:
            yield (
                f"{name}={problem['input']!r}: {problem['msg']}"
                if problem["loc"] and not isinstance(problem["input"], dict)
                else problem["msg"].removeprefix("Value error, ")
            )

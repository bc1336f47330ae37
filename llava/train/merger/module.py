"""The module that learns to merge visual tokens, and the stage of a plan that it stands in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from llava.reduction import Stage
from llava.reduction.aggregate import CrossAttention
from llava.reduction.mergers import MERGERS, Merger, make_merger
from llava.reduction.methods.anywhere.condensation import Condensation
from llava.reduction.methods.anywhere.custom_selection import CustomSelection
from llava.reduction.methods.anywhere.merger import TrainedMerger

from .settings import MethodSettings, Settings


@dataclass(frozen=True)
class TrainableMerger:
    """The module that learns, the arguments that build it again, and the method of a plan that uses it."""

    module: Merger | CrossAttention
    arguments: dict[str, Any]
    method: MethodSettings

    def plan(self, budget: int | float) -> list[Stage]:
        """The module in its place, with a budget."""
        method = self.method
        if isinstance(self.module, Merger):
            return [Stage(TrainedMerger(module=self.module), "features", keep=budget)]
        site = "features" if method.layer is None else "layer"
        if method.merger_type == "condensation":
            reducer = Condensation(method.strategy, method.num_heads, attention=self.module)
        else:
            reducer = CustomSelection(method.strategy, attention=self.module)
        return [Stage(reducer, site, method.layer, budget)]

    @property
    def reads_no_question(self) -> bool:
        """Whether what the decoder receives of a picture is the same for every question about it."""
        return self.method.layer is None and not getattr(self.module, "needs_question", False)

    @property
    def stage(self) -> str:
        """The stage as a plan is spelled, without budget and weights."""
        if self.method.merger_type in MERGERS:
            return "merger"
        site = "features" if self.method.layer is None else self.method.layer
        return f"{self.method.merger_type}@{site},strategy={self.method.strategy}"

    def anneal(self, progress: float) -> None:
        """Lower the temperature of a module that has one; ``progress`` from 0 to 1."""
        anneal = getattr(self.module, "anneal", None)
        if anneal is not None:
            anneal(progress)


def build(settings: Settings, vision_dim: int, hidden_dim: int, tokens: int) -> TrainableMerger:
    """The module that a configuration asks for, at its start, for a model of these widths and ``tokens`` per picture.

    Raises ValueError for a width or a budget that the model does not have.
    """
    method, model = settings.method_settings, settings.backbone_settings.mllm_settings
    for name, actual in (("vision_dim", vision_dim), ("hidden_dim", hidden_dim)):
        written = getattr(model, name)
        if written is not None and written != actual:
            raise ValueError(
                f"backbone_settings.mllm_settings.{name}={written} but {model.model_path} has {actual}; leave it out to "
                "read it there"
            )
    for budget in settings.budgets:
        if budget > tokens:
            raise ValueError(f"method_settings.budgets: {budget} exceeds the {tokens} tokens of a picture")
    torch.manual_seed(settings.training_settings.seed)
    if method.merger_type not in MERGERS:
        width = vision_dim if method.layer is None else hidden_dim
        arguments: dict[str, Any] = {"width": width, "heads": method.num_heads}
        return TrainableMerger(CrossAttention(**arguments), arguments, method)
    common = {"num_heads": method.num_heads, "merge_ratio": method.merge_ratio}
    inside = {"d_vision": vision_dim, "d_text": hidden_dim, "d_internal": method.d_internal}
    arguments = {
        "simple": {"d_model": vision_dim, **common},
        "question_aware": {**inside, **common},
        "fixed_pooling": {**inside, **common, "use_question": bool(method.use_question), "num_tokens": tokens},
    }[method.merger_type]
    return TrainableMerger(make_merger(method.merger_type, **arguments), arguments, method)

"""What a merger is trained on: prompts with answers, features of their pictures, and how the full model reads them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llava.model.language_model.llava_family import LlavaFamilyForCausalLM
from llava.reduction import reduced

from ..data import Collator, ConversationDataset
from ..records import padding_id
from ..trainable import require_tower
from .forward import ForwardPass, read, read_together
from .settings import Settings


class TrainingExamples:
    """The records of a configuration as batches, with the forward passes of teacher and student.

    With ``cache`` features and the teacher's passes are computed once and kept in memory (for 576 tokens of 1024 in half
    precision 1.2 MB per picture).
    """

    def __init__(self, settings: Settings, model: LlavaFamilyForCausalLM, tokenizer: Any, image_processor: Any):
        data = settings.data_settings
        self.model = model
        self.layer = matched_layer(settings, model.config.num_hidden_layers)
        self.cache = data.cache
        self.batch_size = settings.training_settings.batch_size
        self.dataset = ConversationDataset(
            data.data_path,
            data.image_folder,
            settings.backbone_settings.mllm_settings.conv_mode,
            tokenizer,
            image_processor,
            model.config,
            getattr(model.config, "tokenizer_model_max_length", None) or model.config.max_position_embeddings,
            require_tower(model).num_patches,
            images_required=True,
            skip_bad=data.skip_bad_records,
            split_turns=data.split_turns,
            lazy=False,
        )
        self.collate = Collator(padding_id(tokenizer))
        self.features: dict[tuple[str, ...], list[Tensor]] = {}
        self.teacher_passes: dict[int, ForwardPass] = {}
        self.by_picture: dict[tuple[str, ...], list[int]] = {}
        for index in range(len(self.dataset)):
            self.by_picture.setdefault(self.dataset.pictures(index), []).append(index)

    def __len__(self) -> int:
        return len(self.dataset)

    def groups(self, together: bool) -> list[list[int]]:
        """The records in groups that stay together: the questions about a picture, or each one separately."""
        return list(self.by_picture.values()) if together else [[index] for index in range(len(self))]

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """ids, labels, mask and the pictures' raw features, on the model's device."""
        items = [self._item(index) for index in indices]
        device = self.model.device
        raw = [feature.to(device) for item in items for feature in item.pop("raw")]
        return {name: part.to(device) for name, part in self.collate(items).items()} | {"raw_vision_features": raw}

    def _item(self, index: int) -> dict[str, Any]:
        pictures = self.dataset.pictures(index)
        if pictures not in self.features:
            item = self.dataset[index]
            with torch.no_grad():
                features = self.model.encode_raw(item["images"])
            if not self.cache:
                return {"input_ids": item["input_ids"], "labels": item["labels"], "images": [], "raw": features}
            self.features[pictures] = [feature.half().cpu() for feature in features]
        ids, labels = self.dataset.encoded(index)
        return {"input_ids": ids, "labels": labels, "images": [], "raw": self.features[pictures]}

    @torch.no_grad()
    def teacher(self, indices: Sequence[int], batch: dict[str, Any]) -> ForwardPass:
        """The full model's forward pass over a batch."""
        if not self.cache:
            with reduced(self.model, ""):
                return read(self.model, batch, self.layer)
        for index in indices:
            if index not in self.teacher_passes:
                self._remember(self.by_picture[self.dataset.pictures(index)])
        return ForwardPass.joined([self.teacher_passes[index] for index in indices], self.model.device)

    def student(self, indices: Sequence[int], batch: dict[str, Any], together: bool) -> ForwardPass:
        """The forward pass under the plan in force; ``together``: a picture is read once for all its questions."""
        if not together:
            return read(self.model, batch, self.layer)
        return read_together(self.model, batch, [self.dataset.pictures(index) for index in indices], self.layer)

    def _remember(self, indices: Sequence[int]) -> None:
        """Keep the full model's passes over all questions about a picture."""
        for start in range(0, len(indices), self.batch_size):
            part = indices[start : start + self.batch_size]
            with reduced(self.model, ""):
                forward_pass = self.student(part, self.batch(part), together=True)
            self.teacher_passes.update(zip(part, forward_pass.rows(), strict=True))


def matched_layer(settings: Settings, layers: int) -> int | None:
    """After how many decoder layers words are matched; None where they are not. Raises ValueError for one the model lacks."""
    training = settings.training_settings
    if not training.feature_weight:
        return None
    layer, reduced_at = training.feature_layer or layers, settings.method_settings.layer or 0
    if not reduced_at < layer <= layers:
        raise ValueError(
            f"training_settings.feature_layer={layer} must lie between {reduced_at + 1} and {layers}: words are matched "
            "behind the reduction, in one of the model's layers"
        )
    return layer


def draw_batch(groups: Sequence[Sequence[int]], size: int, step: int, seed: int) -> list[int]:
    """Which ``size`` examples a step learns from: every pass goes over all of them in a new order.

    ``groups`` of examples that stay together, such as the questions about a picture. The batch depends on the arguments
    alone.
    """
    count = sum(map(len, groups))
    positions = range(step * size, (step + 1) * size)
    orders: dict[int, list[int]] = {}
    for position in positions:
        if position // count not in orders:
            shuffled = list(groups)
            random.Random(f"{seed} pass {position // count}").shuffle(shuffled)
            orders[position // count] = [index for group in shuffled for index in group]
    return [orders[position // count][position % count] for position in positions]


def split(indices: Sequence[int], parts: int) -> list[Sequence[int]]:
    """A batch in ``parts`` as equal as possible; empty ones are left out."""
    size = -(-len(indices) // parts)
    return [indices[start : start + size] for start in range(0, len(indices), size)]

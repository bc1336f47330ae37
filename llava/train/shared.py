"""Several records about one picture in one pass: what they have in common is read once, with the picture.

R rows of P common and Q own positions cost P + R Q positions instead of R (P + Q), and no row sees another. That is
possible where nothing before the decoder reads a question, and no stage is inside the decoder.

Shapes: R rows (questions), Q own positions of the longest, D the language model's width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers.cache_utils import DynamicCache

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.language_model.llava_family import LlavaFamilyForCausalLM
from llava.model.vision.splice import Spliced
from llava.reduction import Need, Stage

from .data import Collator, ConversationDataset, Item

GROUP = "group"  # of a batch: which picture's rows a row belongs to
PARTS = 3  # in which the rows of a batch are read


@dataclass(frozen=True)
class SharedStart:
    """What rows have in common, read once for every picture, with the keys and values that their own parts see.

    start: the common parts, one for each picture. group: (R,) which of them a row is behind. batch: input_ids, labels, attention_mask of
    the rows, which have ``common`` positions as the first row about their picture.
    """

    model: LlavaFamilyForCausalLM
    batch: dict[str, Any]
    common: int
    group: Tensor
    start: Spliced
    cache: DynamicCache

    def read(self, rows: Tensor) -> OwnPart:
        """The own parts of some rows (their numbers); gradients flow through the common ones."""
        decoder = self.model.get_model()
        group = self.group[rows]
        ids, labels, mask = (
            self.batch[name][rows, self.common :] for name in ("input_ids", "labels", "attention_mask")
        )
        longest = int(mask.sum(1).max())  # padded on the right
        ids, labels, mask = ids[:, :longest], labels[:, :longest], mask[:, :longest]
        seen = self.start.attention_mask[group]
        layers: list[Any] = self.cache.layers
        behind = [(layer.keys[group], layer.values[group]) for layer in layers]
        outputs = decoder(
            inputs_embeds=decoder.embed_tokens(ids),
            attention_mask=torch.cat([seen, mask], dim=1),
            position_ids=seen.sum(1)[:, None] + torch.arange(longest, device=ids.device),
            cache=DynamicCache(behind, config=decoder.config),
            use_cache=True,
        )
        return OwnPart(outputs.last_hidden_state, mask, targets_of(labels))

    def by_length(self) -> Sequence[Tensor]:
        """The rows in parts of similar length, so that little is padded."""
        lengths = self.batch["attention_mask"].sum(1)
        return [rows for rows in lengths.argsort(stable=True).tensor_split(PARTS) if len(rows)]


@dataclass(frozen=True)
class OwnPart:
    """Last hidden states (r, Q, D) of rows behind their common part, which positions (r, Q) are no padding, and what comes after each (r, Q)."""

    states: Tensor
    mask: Tensor
    targets: Tensor


def common_length(ids: Tensor, labels: Tensor, firsts: Tensor) -> int:
    """How many positions from the first on every row (R, S) has as the row ``firsts`` (R,) names, 0 where those lack a picture.

    A position that predicts an answer belongs to its row alone.
    """
    same = (ids == ids[firsts]) & (targets_of(labels) == IGNORE_INDEX)
    common = int(same.all(0).cumprod(0).sum())
    return 0 if (ids[:, common:] == IMAGE_TOKEN_INDEX).any() else common


def read_start(
    model: LlavaFamilyForCausalLM, batch: dict[str, Any], firsts: Tensor, common: int, **pictures: Any
) -> SharedStart:
    """Read the ``common`` positions of the first row about each picture (``firsts``, R).

    pictures: images, image_sizes or raw_vision_features of the first rows alone, in their order, as ``splice`` takes
    them. What is read then differs from reading each row for itself by rounding only.
    """
    rows = firsts.unique()  # ascending
    start = model.splice(batch["input_ids"][rows, :common], **pictures)
    decoder = model.get_model()
    cache = DynamicCache(config=decoder.config)
    decoder(
        inputs_embeds=start.inputs_embeds,
        attention_mask=start.attention_mask,
        position_ids=start.position_ids,
        cache=cache,
        use_cache=True,
    )
    return SharedStart(model, batch, common, torch.searchsorted(rows, firsts), start, cache)


def shared_loss(model: LlavaFamilyForCausalLM, batch: dict[str, Any], tokens: Tensor | int | None = None) -> Tensor:
    """Cross-entropy of the answers of a ``SharedCollator``'s batch: the mean, or the sum over ``tokens``.

    Where rows differ before their picture, each is read for itself.
    """
    batch = dict(batch)
    group: Tensor = batch.pop(GROUP)
    images, sizes = batch.pop("images", None), batch.pop("image_sizes", None)
    firsts = torch.searchsorted(group, group)  # groups are ascending
    common = common_length(batch["input_ids"], batch["labels"], firsts)
    if common:
        shared = read_start(model, batch, firsts, common, images=images, image_sizes=sizes)
        loss, answers = torch.zeros((), device=firsts.device), 0
        for rows in shared.by_length():
            own = shared.read(rows)
            learned = own.targets != IGNORE_INDEX
            logits, targets = model.lm_head(own.states[learned]).float(), own.targets[learned]
            loss, answers = loss + F.cross_entropy(logits, targets, reduction="sum"), answers + len(targets)
        return loss / (answers if tokens is None else tokens)
    if images is not None:
        rows = firsts.unique()
        numbers = list(split(range(len(images)), (batch["input_ids"][rows] == IMAGE_TOKEN_INDEX).sum(1).tolist()))
        shown = [number for item in torch.searchsorted(rows, firsts).tolist() for number in numbers[item]]
        images = images[shown] if isinstance(images, Tensor) else [images[index] for index in shown]
        sizes = [sizes[index] for index in shown] if sizes is not None else None
    loss = model(**batch, images=images, image_sizes=sizes, num_items_in_batch=tokens, skip_logits=True).loss
    assert loss is not None  # labels are given
    return loss


def split(values: Sequence[Any], counts: Sequence[int]) -> Iterator[Sequence[Any]]:
    """A sequence cut into parts of these lengths."""
    start = 0
    for count in counts:
        yield values[start : start + count]
        start += count


def targets_of(labels: Tensor) -> Tensor:
    """What comes after each position (R, S)."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)


def require_shareable(plan: Sequence[Stage], processes: int, checkpointing: bool) -> None:
    """Raises ValueError where questions about a picture cannot share its pass."""
    for stage in plan:
        if stage.site == "layer" or stage.needs & {Need.QUESTION, Need.TEXT, Need.CLIP}:
            raise ValueError(
                f"share_pictures=True, but {stage} chooses for every question by itself; leave --share_pictures out"
            )
    if processes > 1:
        raise ValueError(
            f"share_pictures=True in {processes} processes: their gradients are gathered by the model's forward, which it "
            "does not pass; train in one, or leave --share_pictures out"
        )
    if checkpointing:
        raise ValueError(
            "share_pictures=True needs the keys and values that gradient_checkpointing throws away; choose one"
        )


# ------------------------------------------------------------------------------------------------------------------ data


class SharedPictures(Dataset):
    """The records of a dataset, all those about the same pictures as one item; a text without a picture is one by itself.

    Items are lists of the dataset's items, of which the first alone has the pictures. ``lengths`` and ``has_image`` are of the items.
    """

    def __init__(self, dataset: ConversationDataset):
        self.dataset = dataset
        groups: dict[Any, list[int]] = {}
        for index in range(len(dataset)):
            groups.setdefault(dataset.pictures(index) or index, []).append(index)
        self.groups = list(groups.values())
        self.lengths = [max(dataset.lengths[index] for index in group) for group in self.groups]
        self.has_image = [dataset.has_image[group[0]] for group in self.groups]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> list[Item]:
        first, *others = self.groups[index]
        shown = self.dataset[first]
        if self.dataset.skip_bad and not torch.equal(shown["input_ids"], self.dataset.encoded(first)[0]):
            return [shown]  # another record stands in for one whose picture is damaged
        encoded = (self.dataset.encoded(other) for other in others)
        return [
            shown,
            *({"input_ids": ids, "labels": labels, "images": [], "image_sizes": []} for ids, labels in encoded),
        ]


@dataclass(frozen=True)
class SharedCollator:
    """Makes a batch of ``SharedPictures``' items: as ``Collator`` does of their records, and `group` (R,), the item of each."""

    pad_token_id: int

    def __call__(self, items: Sequence[list[Item]]) -> dict[str, Any]:
        batch = Collator(self.pad_token_id)([row for item in items for row in item])
        return batch | {GROUP: torch.tensor([number for number, item in enumerate(items) for _ in item])}

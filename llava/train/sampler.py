"""In which order a training sees its records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback


class EpochSampler(Sampler[int]):
    """Every record once an epoch, in an order that depends on seed and epoch alone: a resumed run sees the same one.

    size: how many records. lengths, has_image: of every record; given, the records of one optimizer step are all with or
    all without a picture and its batches hold records of like length, so little is padded. batch, step: records of a
    device's batch and of an optimizer step over all devices. What does not fill a step stands at the end, mixed.

    As LLaVA's group_by_modality_length; LLaVA deals the records of a step to its devices by equal sums of lengths, which pads
    each batch to the longest of the step, here they are dealt by length.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        lengths: Sequence[int] = (),
        has_image: Sequence[bool] = (),
        batch: int = 1,
        step: int = 1,
    ):
        self.size, self.seed, self.lengths, self.has_image = size, seed, lengths, has_image
        self.batch, self.step = batch, step
        self.epoch = 0

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's order the next iteration follows."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        if not self.lengths:
            return iter(order)
        steps, rest = [], []
        for kind in (True, False):
            same = [index for index in order if self.has_image[index] == kind]
            full = len(same) - len(same) % self.step
            steps += [same[start : start + self.step] for start in range(0, full, self.step)]
            rest += same[full:]
        shuffled = [steps[place] for place in torch.randperm(len(steps), generator=generator).tolist()]
        return iter([index for step in [*shuffled, rest] for index in self._by_length(step, generator)])

    def _by_length(self, step: list[int], generator: torch.Generator) -> list[int]:
        """The records of a step as batches of like length, in any order, except that one which is not full comes last."""
        ranked = sorted(step, key=lambda index: -self.lengths[index])
        batches = [ranked[start : start + self.batch] for start in range(0, len(ranked), self.batch)]
        last = [batches.pop()] if batches and len(batches[-1]) < self.batch else []
        places = torch.randperm(len(batches), generator=generator).tolist()
        return [index for batch in [*(batches[place] for place in places), *last] for index in batch]


class SetEpoch(TrainerCallback):
    """Tells a sampler the epoch: accelerate does not where several processes skip what a resumed run has seen."""

    def __init__(self, sampler: EpochSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sampler.set_epoch(int((state.epoch or 0) + 1e-6))

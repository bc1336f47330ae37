"""The order in which a training sees its records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback


class EpochSampler(Sampler[int]):
    """Every record once per epoch, in an order that depends on seed and epoch alone: a resumed run sees the same one.

    size: how many records. lengths, has_image: of every record; given, the records of one optimizer step are all with or
    all without a picture and its batches hold records of similar length, so little is padded. batch, step: records of a
    device's batch and of an optimizer step over all devices. What does not fill a step stands at the end, mixed.

    As LLaVA's group_by_modality_length; LLaVA deals the records of a step to its devices by equal sums of lengths,
    which pads each batch to the longest of the step; here they are dealt by length.
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
        """The records of a step as batches of similar length, in any order, but an incomplete one comes last."""
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


# ------------------------------------------------------------------------------------------------------- LLaVA's names


def signed_lengths(modality_lengths: Sequence[int]) -> tuple[list[int], list[bool]]:
    """Lengths and kinds of records from LLaVA's lengths, which are negative for records without a picture.

    Raises ValueError for a length of 0, which has no sign.
    """
    if not all(modality_lengths):
        raise ValueError("a record of length 0 is neither with nor without a picture; leave it out")
    return [abs(length) for length in modality_lengths], [length > 0 for length in modality_lengths]


def lengths_and_kinds(dataset: Any) -> tuple[Sequence[int], Sequence[bool]]:
    """How long each record is and whether it has a picture; LLaVA's datasets write both as `modality_lengths`."""
    if hasattr(dataset, "has_image"):
        return dataset.lengths, dataset.has_image
    return signed_lengths(dataset.modality_lengths)


class LengthGroupedSampler(EpochSampler):
    """`EpochSampler` by LLaVA's arguments; every iteration draws another order from the generator.

    batch_size: of a device. world_size: devices times accumulation steps. group_by_modality: `lengths` are negative for
    records without a picture, and no step mixes the two. generator: default PyTorch's own.
    """

    def __init__(
        self,
        batch_size: int,
        world_size: int,
        lengths: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        group_by_modality: bool = False,
    ):
        if not lengths:
            raise ValueError("lengths are missing; give those of every record")
        plain = (list(lengths), [True] * len(lengths))
        sizes, has_image = signed_lengths(lengths) if group_by_modality else plain
        super().__init__(len(lengths), 0, sizes, has_image, batch_size, batch_size * world_size)
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        self.seed = int(torch.randint(2**31, (), generator=self.generator))
        return super().__iter__()


def get_length_grouped_indices(
    lengths: Sequence[int],
    batch_size: int,
    world_size: int,
    generator: torch.Generator | None = None,
    merge: bool = True,
) -> list[int]:
    """One order of `LengthGroupedSampler`. Raises ValueError for merge=False, LLaVA's order in several lists."""
    if not merge:
        raise ValueError("merge=False is not supported; cut the one list at every batch_size * world_size")
    return list(LengthGroupedSampler(batch_size, world_size, lengths, generator))


def get_modality_length_grouped_indices(
    lengths: Sequence[int], batch_size: int, world_size: int, generator: torch.Generator | None = None
) -> list[int]:
    """One order of `LengthGroupedSampler` by modality."""
    return list(LengthGroupedSampler(batch_size, world_size, lengths, generator, group_by_modality=True))

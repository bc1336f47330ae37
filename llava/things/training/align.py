"""The projector's first weights: what the tower sees of a thing reads as the words that the language model has for it.

No language model is run for it. A projected patch is drawn towards the language model's own input embedding of the name
of the thing that it shows ("background" where there is none), plus a little of the words for its place. That takes
minutes instead of the hours that it takes through all layers. It has to be the embedding itself and not only nearer to
it than to others: when trained with a softmax, names were right as often, but at a cosine of 0.14, at which the
language model reads nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from llava.mm_utils import process_images

from ..world import GRID, World, patch_owner

logger = logging.getLogger(__name__)

SEED = 21  # first number of the scenes' seeds
SHARD = 100  # pictures whose patches lie in one file
SHOWN, BEHIND = 64, 16  # most patches of a picture: of its things, of its background
BATCH = 16  # pictures per step
RATE, DECAY = 2e-3, 0.02
PLACE = 0.3  # share of the embedding of either place, added to that of the name
SHARP = 16.0  # cosines become the logits of a name by this factor
BACKGROUND = "background"
COLUMNS, ROWS = ("left", "center", "right"), ("top", "middle", "bottom")


@dataclass(frozen=True)
class Patches:
    """n patches of pictures: features (n, D) of the tower, the number of the thing each shows, and their index in the raster.

    names: (n,), the number of things for the background. places: (n,), 0 to 575. pictures: (n,), which picture they are of.
    """

    features: Tensor
    names: Tensor
    places: Tensor
    pictures: Tensor

    @staticmethod
    def joined(parts: Sequence[Patches]) -> Patches:
        fields = zip(*((part.features, part.names, part.places, part.pictures) for part in parts), strict=True)
        return Patches(*(torch.cat(field) for field in fields))

    def of(self, pictures: Tensor) -> Patches:
        """The patches of some pictures."""
        chosen = torch.isin(self.pictures, pictures)
        return Patches(self.features[chosen], self.names[chosen], self.places[chosen], self.pictures[chosen])


@dataclass(frozen=True)
class Words:
    """Input embeddings (., W) of the names of all things and "background", and of the words for columns and rows."""

    names: Tensor
    columns: Tensor
    rows: Tensor

    @staticmethod
    @torch.no_grad()
    def of(world: World, tokenizer: Any, embeddings: Tensor) -> Words:
        """A name of several pieces is their mean."""

        def embedded(words: Sequence[str]) -> Tensor:
            pieces = [tokenizer(f" {word}", add_special_tokens=False).input_ids for word in words]
            return torch.stack([embeddings[ids].float().mean(0) for ids in pieces])

        return Words(embedded([*(thing.name for thing in world.things), BACKGROUND]), embedded(COLUMNS), embedded(ROWS))

    def patches(self, names: Tensor, places: Tensor) -> Tensor:
        """What patches should be (..., W) that show the things of these numbers at these indices of the raster."""
        return self.names[names] + PLACE * (self.columns[_third(places % GRID)] + self.rows[_third(places // GRID)])


@torch.inference_mode()
def read_patches(
    model: Any, image_processor: Any, world: World, work: Path, pictures: int, progress: bool = False
) -> Patches:
    """Patches of ``pictures`` drawn pictures as the tower sees them; shards in ``work`` are kept, so a stop costs one.

    Cost: a third of a second per picture on one core.
    """
    work.mkdir(parents=True, exist_ok=True)
    shards = [
        (start, min(start + SHARD, pictures), work / f"patches-{SEED}-{start}-{min(start + SHARD, pictures)}.pt")
        for start in range(0, pictures, SHARD)
    ]
    for start, stop, file in track(shards, "looking at pictures", disable=not progress):
        if not file.is_file():
            drawn = Patches.joined([*_looked_at(model, image_processor, world, range(start, stop))])
            torch.save(vars(drawn), file.with_suffix(".partial"))
            file.with_suffix(".partial").replace(file)
    return Patches.joined([Patches(**torch.load(file, weights_only=True)) for _, _, file in shards])


def _looked_at(model: Any, image_processor: Any, world: World, numbers: range) -> Iterator[Patches]:
    numbered = {thing.name: number for number, thing in enumerate(world.things)}
    tower = model.get_vision_tower()
    for picture in numbers:
        scene = world.scene(SEED, picture)
        pixels = process_images([world.render(scene)], image_processor, model.config)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=tower.device.type == "cpu"):
            features = tower(torch.as_tensor(pixels).to(tower.device, tower.dtype))[0]
        owner = patch_owner(scene).flatten()
        rng = np.random.default_rng((SEED, picture, 2))
        chosen = np.concatenate(
            [rng.permutation(np.flatnonzero(mask))[:most] for mask, most in ((owner >= 0, SHOWN), (owner < 0, BEHIND))]
        )
        shown = np.array([numbered[item.name] for item in scene.items] + [len(world.things)])
        yield Patches(
            features[torch.from_numpy(chosen).to(features.device)].half().cpu(),
            torch.from_numpy(shown[owner[chosen]]),
            torch.from_numpy(chosen),
            torch.full((len(chosen),), picture),
        )


def align(projector: nn.Module, patches: Patches, words: Words, steps: int, seed: int = 0) -> dict[str, float]:
    """Train a projector, in place and in float32, on all but a tenth of the pictures, and measure it on that tenth.

    Returns shares: ``patch`` and ``thing`` named right (a thing by all of its patches together), ``background``
    recognised as such, and the mean ``cosine`` of a thing's patches and its name.
    """
    pictures = patches.pictures.unique()
    held_out = pictures[len(pictures) - max(1, len(pictures) // 10) :]
    known = pictures[: len(pictures) - len(held_out)]
    by_picture = {int(picture): patches.of(picture[None]) for picture in known}
    projector.float().train()
    optimiser = torch.optim.AdamW(projector.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.05)
    rng = np.random.default_rng((seed, 3))
    for step in range(steps):
        batch = Patches.joined([by_picture[int(number)] for number in rng.choice(known.numpy(), BATCH)])
        loss = _loss(projector(batch.features.float()), batch, words)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 200 == 199:
            logger.info("step %d of %d: loss %.3f", step + 1, steps, loss.item())
    projector.eval()
    return measure(projector, patches.of(held_out), words)


@torch.inference_mode()
def measure(projector: nn.Module, patches: Patches, words: Words) -> dict[str, float]:
    """The figures of ``align`` on some pictures."""
    projected = projector(patches.features.float())
    said = (SHARP * _alike(projected, words.names)).log_softmax(1)
    background = patches.names == len(words.names) - 1
    things, groups = torch.unique(
        torch.stack([patches.pictures, patches.names])[:, ~background], dim=1, return_inverse=True
    )
    summed = torch.zeros(things.shape[1], len(words.names)).index_add_(0, groups, said[~background])
    right = said.argmax(1) == patches.names
    return {
        "patch": right[~background].float().mean().item(),
        "thing": (summed[:, :-1].argmax(1) == things[1]).float().mean().item(),
        "background": right[background].float().mean().item(),
        "cosine": F.cosine_similarity(projected, words.names[patches.names])[~background].mean().item(),
    }


def _loss(projected: Tensor, patches: Patches, words: Words) -> Tensor:
    """Squared distance to what a patch should be, over the embeddings' mean square, plus its name's cross-entropy."""
    wanted = words.patches(patches.names, patches.places)
    named = F.cross_entropy(SHARP * _alike(projected, words.names), patches.names)
    return F.mse_loss(projected, wanted) / words.names.square().mean() + named


def _alike(projected: Tensor, names: Tensor) -> Tensor:
    """Cosines (n, names)."""
    return F.normalize(projected, dim=-1) @ F.normalize(names, dim=-1).T


def _third(index: Tensor) -> Tensor:
    return index * 3 // GRID

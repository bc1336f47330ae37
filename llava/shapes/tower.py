"""Training of the embedded model's CLIP tower: every patch learns to say what it shows.

The tower is an ordinary ``CLIPVisionModel`` (patch 14 at 336 pixels, 576 patches). Linear heads on the features that
LLaVA reads (the last layer but one) predict, for every patch, the kind and the colour of the object that covers it,
whether the object's centre lies in it, where the patch is and the background's texture; the class token learns which
kinds and colours the picture holds. The heads are thrown away afterwards.

Three things make this learnable in minutes on two cores: position embeddings that start as 2-D sines (neighbours are
then alike from the first step), crowded pictures (16 objects each), and attention within quarters of the picture, which
costs a quarter, until the last steps.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPVisionConfig, CLIPVisionModel

from . import world

logger = logging.getLogger(__name__)

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SELECT_LAYER = -2


def build_tower(hidden: int = 192, layers: int = 5) -> CLIPVisionModel:
    """A CLIP tower of patch 14 at 336 pixels with heads of width 64 and sine position embeddings."""
    config = CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        image_size=world.SIZE,
        patch_size=world.PATCH,
        projection_dim=hidden,
    )
    tower = CLIPVisionModel(config)
    with torch.no_grad():
        tower.embeddings.position_embedding.weight[1:] = 0.5 * sine_positions(world.GRID, hidden)
    return tower


def sine_positions(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column: (side * side, width)."""
    frequency = 1.0 / 100 ** (torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * frequency
    one = torch.cat([angle.sin(), angle.cos()], dim=1)  # (side, width / 2)
    rows, columns = one[:, None].expand(side, side, -1), one[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, width)


class PatchHeads(nn.Module):
    """The linear readers that teach the tower, and afterwards measure it."""

    def __init__(self, hidden: int):
        super().__init__()
        self.kind = nn.Linear(hidden, len(world.KINDS) + 1)
        self.colour = nn.Linear(hidden, len(world.COLOURS) + 1)
        self.texture = nn.Linear(hidden, len(world.TEXTURES))
        self.centre = nn.Linear(hidden, 1)
        self.place = nn.Linear(hidden, 2)
        self.presence = nn.Linear(hidden, len(world.KINDS) + len(world.COLOURS))
        self.pooled = nn.Linear(hidden, len(world.KINDS) + len(world.COLOURS))

    def loss(self, patches: Tensor, cls: Tensor, pooled: Tensor | None, target: dict[str, Tensor]) -> Tensor:
        """Weighted sum of all readers; a patch without an object counts a tenth of one with an object."""
        busy = target["kind"] < len(world.KINDS)
        weight = torch.where(busy, 1.0, 0.1)
        classes = 0.0
        for name in ("kind", "colour"):
            each = F.cross_entropy(getattr(self, name)(patches).float().transpose(1, 2), target[name], reduction="none")
            classes = classes + (each * weight).sum() / weight.sum()
        texture = F.cross_entropy(
            self.texture(patches).float().transpose(1, 2), target["texture"][:, None].expand_as(busy)
        )
        centre = F.binary_cross_entropy_with_logits(
            self.centre(patches).float()[..., 0], target["centre"], pos_weight=torch.tensor(8.0)
        )
        rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, world.GRID)] * 2, indexing="ij")
        place = F.mse_loss(
            self.place(patches).float(), torch.stack([columns, rows], -1).reshape(1, -1, 2).expand(len(busy), -1, 2)
        )
        present = sum(
            F.binary_cross_entropy_with_logits(head(feature).float(), target["present"])
            for head, feature in ((self.presence, cls), (self.pooled, pooled))
            if feature is not None
        )
        return classes + 0.2 * texture + centre + 0.2 * place + 0.2 * present


class Crowds(Dataset):
    """Crowded pictures and what each patch of them shows, by index."""

    def __init__(self, seed: int, start: int, count: int):
        self.seed, self.start, self.count = seed, start, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number = self.start + index
        make = world.make_scene if number % 4 == 0 else world.make_crowd
        scene = make(self.seed, number)
        return {"image": torch.from_numpy(np.array(world.render(scene))), **patch_targets(scene)}


def pixels(images: Tensor) -> Tensor:
    """What LLaVA's image processor makes of pictures of 336 x 336: (B, 336, 336, 3) bytes to (B, 3, 336, 336) float."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (images.permute(0, 3, 1, 2).contiguous().float() / 255 - mean) / std


def patch_targets(scene: world.Scene) -> dict[str, Tensor]:
    """Labels of the 576 patches and of the whole picture."""
    kinds = [world.KINDS.index(item.kind) for item in scene.items] + [len(world.KINDS)]
    colours = [list(world.COLOURS).index(item.colour) for item in scene.items] + [len(world.COLOURS)]
    owner = torch.from_numpy(world.patch_owner(scene)).flatten()
    centre = torch.zeros(world.GRID, world.GRID)
    for item in scene.items:
        centre[int(item.y) // world.PATCH, int(item.x) // world.PATCH] = 1
    present = torch.zeros(len(world.KINDS) + len(world.COLOURS))
    present[kinds[:-1]] = 1
    present[[len(world.KINDS) + colour for colour in colours[:-1]]] = 1
    return {
        "kind": torch.tensor(kinds)[owner],
        "colour": torch.tensor(colours)[owner],
        "texture": torch.tensor(world.TEXTURES.index(scene.texture)),
        "centre": centre.flatten(),
        "present": present,
    }


def features(tower: CLIPVisionModel, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Patch features and class token of the layer LLaVA reads, and the pooled output of the last."""
    out = tower(images, output_hidden_states=True)
    chosen = out.hidden_states[SELECT_LAYER]
    return chosen[:, 1:], chosen[:, 0], out.pooler_output


def quarter_features(tower: CLIPVisionModel, images: Tensor, shift: tuple[int, int]) -> tuple[Tensor, Tensor, None]:
    """The same features with attention inside quarters of the picture, whose borders ``shift`` moves (wrapping round).

    Layers above the one that LLaVA reads are left out, so there is no pooled output.
    """
    batch, half = len(images), world.GRID // 2
    hidden = tower.pre_layrnorm(tower.embeddings(images))
    grid = hidden[:, 1:].unflatten(1, (world.GRID, world.GRID)).roll(shift, dims=(1, 2))
    windows = grid.unflatten(1, (2, half)).unflatten(3, (2, half)).transpose(2, 3)  # (B, 2, 2, half, half, D)
    cls = hidden[:, :1].repeat_interleave(4, dim=0)
    hidden = torch.cat([cls, windows.reshape(4 * batch, half * half, -1)], dim=1)
    for layer in tower.encoder.layers[: SELECT_LAYER + 1]:
        hidden = layer(hidden, None)
    windows = hidden[:, 1:].reshape(batch, 2, 2, half, half, -1).transpose(2, 3)
    patches = windows.reshape(batch, world.GRID, world.GRID, -1).roll((-shift[0], -shift[1]), dims=(1, 2)).flatten(1, 2)
    return patches, hidden[:, 0].unflatten(0, (batch, 4)).amax(1), None


def train_tower(
    folder: Path, steps: int, batch: int = 16, rate: float = 1.2e-3, whole: int = 250, seed: int = 7
) -> CLIPVisionModel:
    """Train until ``steps``, the last ``whole`` of them with attention over the whole picture.

    Resumes from ``folder/tower.pt``, which is written every 100 steps.
    """
    torch.manual_seed(seed)
    tower = build_tower()
    heads = PatchHeads(tower.config.hidden_size)
    modules = nn.ModuleDict({"tower": tower, "heads": heads})
    optimiser = torch.optim.AdamW(modules.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / 100, max(0.0, 1 - step / steps) + 1e-3)
    )
    state_file, done = folder / "tower.pt", 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        modules.load_state_dict(state["modules"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        done = state["done"]
    loader = DataLoader(
        Crowds(seed, done * batch, (steps - done) * batch), batch_size=batch, num_workers=1, prefetch_factor=4
    )
    began = time.monotonic()
    for number, data in enumerate(loader, start=done + 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            images = pixels(data["image"])
            if number <= steps - whole:
                shift = np.random.default_rng((seed, number)).integers(0, world.GRID, size=2)
                patches, cls, pooled = quarter_features(tower, images, (int(shift[0]), int(shift[1])))
            else:
                patches, cls, pooled = features(tower, images)
            loss = heads.loss(patches, cls, pooled, data)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if number % 20 == 0:
            logger.info(
                "tower step %d loss %.4f %s %.1fs",
                number,
                loss.item(),
                accuracies(heads, patches, data),
                time.monotonic() - began,
            )
        if number % 100 == 0 or number == steps:
            state = {
                "modules": modules.state_dict(),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
                "done": number,
            }
            torch.save(state, state_file.with_suffix(".tmp"))
            state_file.with_suffix(".tmp").replace(state_file)
    return tower.eval()


@torch.no_grad()
def accuracies(heads: PatchHeads, patches: Tensor, target: dict[str, Tensor]) -> str:
    """Share of object patches whose kind and colour the readers name, and of pictures whose texture they name."""
    busy = target["kind"] < len(world.KINDS)
    shares = [
        (getattr(heads, name)(patches.float()).argmax(-1) == target[name])[busy].float().mean().item()
        for name in ("kind", "colour")
    ]
    texture = (heads.texture(patches.float()).argmax(-1) == target["texture"][:, None]).float().mean().item()
    return f"kind {shares[0]:.3f} colour {shares[1]:.3f} texture {texture:.3f}"

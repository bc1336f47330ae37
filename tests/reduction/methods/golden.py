"""Golden vectors of the released code of other methods: cases from files, and what is needed to replay one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from llava.model.language_model.himap_configuration_llama import LlamaConfig
from llava.model.language_model.reducible_llama import ReducibleLlamaForCausalLM
from llava.reduction import Evidence, Record, Stage, reduced

HERE = Path(__file__).parents[2] / "data"  # a few that always come along
PARITY = Path(os.environ.get("PARITY", Path(__file__).parents[4] / "shared" / "parity"))
PEERS = (PARITY if (PARITY / "peers").is_dir() else HERE) / "peers"


@dataclass(frozen=True)
class Case:
    """One run of a method's released code: the arguments of the call, all that the file says of it, and its tensors."""

    method: str
    name: str
    said: Any

    @property
    def arguments(self) -> dict[str, Any]:
        return self.said.get("arguments", {})

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of this case alone, by their names without the case."""
        prefix = f"{self.name}."
        return {
            key.removeprefix(prefix): value for key, value in _tensors(self.method).items() if key.startswith(prefix)
        }

    def __str__(self) -> str:
        return f"{self.method}-{self.name}"


@cache
def _tensors(method: str) -> dict[str, Tensor]:
    return load_file(PEERS / f"{method}.safetensors")


def cases() -> list[Case]:
    """Every case of every method that lies there, in order."""
    found = []
    for file in sorted(PEERS.glob("*.json")):
        said = json.loads(file.read_text())
        found += [Case(file.stem, name, case) for name, case in said["cases"].items()]
    return found


class GivenTower:
    """``TowerEvidence`` from given tensors about all crops: what the released code was given in place of a tower."""

    def __init__(self, **given: Any):
        self.given = given

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.given:
            raise AttributeError(name)
        value = self.given[name]

        def ask(crops: Tensor, layer: int = -2) -> Any:
            found = value[layer] if isinstance(value, dict) else value
            return tuple(part[crops] for part in found) if isinstance(found, tuple) else found[crops]

        return ask

    def part(self, crops: slice) -> GivenTower:
        """The same about some of the crops."""
        return GivenTower(
            **{
                name: tuple(part[crops] for part in value) if isinstance(value, tuple) else value[crops]
                for name, value in self.given.items()
            }
        )


def given_tower(crops: int, patches: int, width: int, heads: int = 4) -> GivenTower:
    """A tower that gives random but well-formed evidence about so many crops."""
    attention = torch.randn(crops, heads, 1 + patches).softmax(-1)
    real = torch.ones(crops, 5, dtype=torch.bool)
    return GivenTower(
        cls_attention=attention,
        mean_attention=attention[..., 1:],
        keys=torch.randn(crops, heads, patches, 4),
        cls_projections=(torch.randn(crops, heads, 4), torch.randn(crops, heads, 4)),
        cls_row=torch.randn(crops, width),
        clip_patches=torch.randn(crops, patches, 12),
        clip_text=(torch.randn(crops, 1, 12), real[:, :1]),
        clip_words=(torch.randn(crops, 5, 12), real),
    )


def about(tokens: Tensor, **given: Any) -> Evidence:
    """Evidence about (G, N, D) tokens on a square grid, whose tower gave these tensors."""
    images, length = tokens.shape[:2]
    side = int(length**0.5)
    everyone = torch.arange(images)
    return Evidence(seeds=everyone, grid=(side, side), tower=GivenTower(**given), crops=everyone)


@dataclass(frozen=True)
class Outcome:
    """What a decoder of ours made of a case: the last hidden state, and what every stage did."""

    last_hidden: Tensor
    trace: list[Record]

    def kept(self, stage: int, start: int) -> Tensor:
        """Which image tokens a stage left (B, k), counted from the image's first."""
        record = self.trace[stage]
        rows = [record.kept_origins(row, text=False) - start for row in range(len(record.chosen))]
        return torch.stack(rows)


def decoder(case: Case) -> ReducibleLlamaForCausalLM:
    """The random Llama that a case was run through."""
    sizes = {key: value for key, value in case.said["model"].items() if key not in ("rope", "rope_theta")}
    model = ReducibleLlamaForCausalLM(LlamaConfig(**sizes)).eval()
    weights = {
        f"model.{key.removeprefix('weights.')}": value for key, value in case.tensors.items() if key[:8] == "weights."
    }
    unexpected = model.load_state_dict(weights, strict=False).unexpected_keys
    assert not unexpected
    return model


def run(case: Case, plan: list[Stage], start: int, tokens: int) -> Outcome:
    """The case's embeddings through its Llama under a plan; the image's tokens are ``start`` to ``start + tokens``."""
    model, embeds = decoder(case), case.tensors["inputs_embeds"]
    visual = torch.zeros(embeds.shape[:2], dtype=torch.long)
    visual[:, start : start + tokens] = 1
    grids = torch.full((len(embeds), 1, 2), int(tokens**0.5))
    with torch.no_grad(), reduced(model, plan):
        out = model.model(inputs_embeds=embeds, visual=visual, grids=grids, use_cache=False)
    return Outcome(out.last_hidden_state, out.trace)

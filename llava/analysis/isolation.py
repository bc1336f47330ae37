"""Attention to the picture cut at one layer or from that layer on, in the decoder's own forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava.model.language_model.reducible_family import ReducibleFamily
from llava.reduction import Ledger

from .observe import token_groups

MODALITIES = ("img2img", "img2txt", "img2rnd")


@dataclass(frozen=True)
class Isolation:
    """What is cut, where, and whether there alone (``layer``) or from there on (``onward``)."""

    modality: str
    layer: int
    scope: str

    def layers(self, depth: int) -> range:
        """The layers that are disturbed, of ``depth``."""
        return range(self.layer, depth if self.scope == "onward" else self.layer + 1)


def blocked(modality: str, ledger: Ledger, seeds: Sequence[int]) -> Tensor:
    """Which entries of the attention (B, S, S) of a prefill are cut.

    ``seeds``, one per prompt, decide the rows of ``img2rnd``. Raises ValueError where a row would see nothing at all.
    """
    valid = ledger.valid
    cut = torch.zeros(*valid.shape, valid.shape[1], dtype=torch.bool, device=valid.device)
    for row, seed in enumerate(seeds):
        place = valid[row].nonzero()[:, 0]
        columns = {name: place[group] for name, group in token_groups(ledger, row).items()}
        picture, words = columns["visual"], columns["text"]
        if len(picture) and ledger.visual[row, place[0]]:
            raise ValueError(
                "the picture is the prompt's very first token, so cut off from it a row sees nothing at all"
            )
        rows = {"img2img": picture, "img2txt": words}.get(modality)
        if rows is None:
            later = torch.cat([picture, words])
            generator = torch.Generator().manual_seed(seed)
            rows = later[torch.randperm(len(later), generator=generator)[: len(words)].to(later.device)]
        cut[row, rows[:, None], picture] = True
    return cut


@contextmanager
def isolated(decoder: ReducibleFamily, isolation: Isolation, seeds: Sequence[int]) -> Iterator[None]:
    """While open, the layers of an isolation do not see what it cuts; in decoding steps only ``img2txt`` has an effect.

    Every layer gets a mask of its own, so that no other layer is disturbed. The prefill must drop no token in the
    decoder.
    """
    cut: dict[str, Tensor] = {}
    shown: dict[str, Tensor] = {}

    def begin(_decoder: nn.Module, _given: tuple, named: dict) -> None:
        embeds, mask = (named.get(name) for name in ("inputs_embeds", "attention_mask"))
        if embeds is not None and embeds.shape[1] > 1:
            seen = embeds.new_ones(embeds.shape[:2]).bool() if mask is None else mask.bool()
            length = seen.shape[1]
            # Recomputed answers come with the prompt: what the map of the picture does not reach is text.
            visual = F.pad(named["visual"], (0, length - named["visual"].shape[1]))
            ledger = Ledger.start(visual, seen, torch.arange(length, device=seen.device)[None])
            cut["picture"] = ledger.visual > 0
            causal = torch.ones(length, length, dtype=torch.bool, device=seen.device).tril()
            allowed = causal & seen[:, None] & ~blocked(isolation.modality, ledger, seeds)
            shown["keys"] = allowed | torch.eye(length, dtype=torch.bool, device=seen.device) & ~seen[..., None]
            return
        picture = cut["picture"]
        seen = picture.new_ones(len(picture), named["cache"].get_seq_length() + 1) if mask is None else mask.bool()
        hidden = F.pad(picture, (0, seen.shape[1] - picture.shape[1])) if isolation.modality == "img2txt" else ~seen
        shown["keys"] = (seen & ~hidden)[:, None]  # (B, 1, keys)

    def disturb(_layer: nn.Module, given: tuple, named: dict) -> tuple[tuple, dict]:
        hidden, keys = given[0], shown["keys"][:, None].to(given[0].device)
        mask = hidden.new_zeros(keys.shape).masked_fill(~keys, torch.finfo(hidden.dtype).min)
        return given, {**named, "attention_mask": mask}

    if decoder.config._attn_implementation not in ("eager", "sdpa"):
        raise ValueError(
            f"attn_implementation={decoder.config._attn_implementation!r} takes no mask of single entries; give sdpa or eager"
        )
    with ExitStack() as stack:
        stack.callback(decoder.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for number in isolation.layers(len(decoder.layers)):
            handle = decoder.layers[number].register_forward_pre_hook(disturb, with_kwargs=True)
            stack.callback(handle.remove)
        yield

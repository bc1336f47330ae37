from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ... import prices, select
from ...checks import check_choice, check_flag, is_number, shown
from ...evidence import DecoderEvidence, Need
from ...registry import register
from ...score import focus, head_importance, max_head, mean_heads, similarity, weighted_heads
from ...select import relevant, topk
from ...stage import Reducer

Heads = Literal["avg_all_heads", "max_head", "weighted_combination", "adaptive"]


@register("fastv")
class FastV(Reducer):
    """Keep the image tokens that the last token of the prompt attends to most.

    Paper: https://arxiv.org/abs/2403.06764   Site: layer K (2)   Needs: attention of layer K-1, last row   Training: none

    With a[h, n] the attention of head h of layer K-1 from the last prompt token to image token n, the score is
    ``avg_all_heads`` mean_h a (the paper), ``max_head`` a[h*] with h* = argmax_h sum_n a[h, n], or
    ``weighted_combination`` alpha a[h*] + (1 - alpha) mean_{h != h*} a[h]. alpha = 1 is max_head, alpha = 1/H is
    avg_all_heads; alpha = "focus" is 1 - H(a[h*]) / ln N, from that head's entropy H, for each image separately.
    ``adaptive`` is max_head where the strongest head has a lower entropy than the heads have on average, else
    avg_all_heads. ``diversity`` in [0, 1) weighs similarity to what is kept already against the score (maximal marginal
    relevance). ``rope=false`` reads attention before the rotary embedding, which takes away the pull to the picture's end
    (arXiv 2412.13180). ``grid`` in [0, 1) keeps that share of the budget on a regular grid, whatever the score (Window-FastV,
    arXiv 2502.11501). tokens (G, N, D) -> kept (G, k); the notes hold the method, the head and the heads' importance.

    Accounting: after layer K.
    Cost: one query row against the layer's keys, 2 d^2 + 2 S d operations; with diversity 2 N^2 d more.
    Differs from the authors' code: every sample of a batch decides for itself; the image span comes from the ledger
    (their scripts say 36 where the image begins at 35); pruned once at prefill and cached; ties go to the lower index.
    """

    needs = frozenset({Need.ATTENTION})
    sites = ("layer",)
    default_layer = 2

    def __init__(
        self,
        heads: Heads = "avg_all_heads",
        alpha: float | Literal["focus"] = 0.5,
        diversity: float = 0.0,
        rope: bool = True,
        grid: float = 0.0,
    ):
        super().__init__()
        check_choice("heads", heads, get_args(Heads))
        if alpha != "focus" and not (is_number(alpha) and 0 <= alpha <= 1):
            raise ValueError(f"alpha={shown(alpha)} must be a number between 0 and 1, or 'focus'")
        for name, value in (("diversity", diversity), ("grid", grid)):
            if not (is_number(value) and 0 <= value < 1):
                raise ValueError(f"{name}={shown(value)} must be a number of at least 0 and below 1")
        check_flag("rope", rope)
        self.heads, self.diversity, self.rope, self.grid = heads, diversity, rope, grid
        if grid:
            self.needs = self.needs | {Need.GRID}
        self.alpha: float | Literal["focus"] = alpha

    def select(self, tokens: Tensor, evidence: DecoderEvidence, k: int) -> Tensor:
        score = self._score(evidence.attention(rope=self.rope), evidence.notes)
        if self.grid:
            regular = select.grid(*evidence.sides, round(k * self.grid)).to(tokens.device).expand(len(tokens), -1)
            score = score.scatter(1, regular, torch.inf)
        return relevant(score, similarity(tokens), k, self.diversity) if self.diversity else topk(score, k)

    def _score(self, attention: Tensor, notes: dict) -> Tensor:
        """(G, H, N) attention to (G, N) scores."""
        notes["method"] = self.heads
        if self.heads == "avg_all_heads":
            return mean_heads(attention)
        importance, strongest = head_importance(attention), max_head(attention)
        notes.update(max_head_idx=importance.argmax(1), head_importance=importance)
        if self.heads == "max_head":
            return strongest
        if self.heads == "adaptive":
            sharp = notes["takes_max_head"] = focus(strongest) > focus(attention).mean(1)
            return torch.where(sharp[:, None], strongest, mean_heads(attention))
        alpha = notes["alpha"] = focus(strongest) if self.alpha == "focus" else self.alpha
        return weighted_heads(attention, alpha[:, None] if isinstance(alpha, Tensor) else alpha)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        alike = prices.similarities(tokens, width) if self.diversity else 0
        return prices.attention_rows(1, rows, width, keys=not self.rope) + alike

    def options(self) -> dict[str, object]:
        changed = super().options()
        return {
            name: value for name, value in changed.items() if name != "alpha" or self.heads == "weighted_combination"
        }

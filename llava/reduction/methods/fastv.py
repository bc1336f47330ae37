from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from ..evidence import Evidence, Need
from ..registry import register
from ..score import head_importance, max_head, mean_heads, weighted_heads
from ..select import topk
from ..stage import Reducer

Heads = Literal["avg_all_heads", "max_head", "weighted_combination"]


@register("fastv")
class FastV(Reducer):
    """Keep the image tokens that the last token of the prompt attends to most.

    Paper: https://arxiv.org/abs/2403.06764   Site: layer K (2)   Needs: attention of layer K-1, last row   Training: none

    With a[h, n] the attention of head h of layer K-1 from the last prompt token to image token n, the score is
    ``avg_all_heads`` mean_h a (the paper), ``max_head`` a[h*] with h* = argmax_h sum_n a[h, n], or
    ``weighted_combination`` alpha a[h*] + (1 - alpha) mean_{h != h*} a[h]. alpha = 1 is max_head, alpha = 1/H is
    avg_all_heads. tokens (G, N, D) -> kept (G, k); the notes hold the method, the head and the heads' importance.

    Cost: one query row against the layer's keys, 2 d^2 + 2 S d operations.
    Differs from the authors' code: every sample of a batch decides for itself; the image span comes from the ledger
    (their scripts say 36 where the image begins at 35); pruned once at prefill and cached; ties go to the lower index.
    """

    needs = frozenset({Need.ATTENTION})
    sites = ("layer",)
    default_layer = 2

    def __init__(self, heads: Heads = "avg_all_heads", alpha: float = 0.5):
        super().__init__()
        if heads not in get_args(Heads):
            raise ValueError(f"heads={heads!r} is unknown; choose one of {', '.join(get_args(Heads))}")
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
            raise ValueError(f"alpha={alpha!r} must be a number between 0 and 1")
        self.heads, self.alpha = heads, alpha

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        attention = evidence.attention("last")[:, :, 0]  # (G, H, N)
        evidence.notes["method"] = self.heads
        if self.heads == "avg_all_heads":
            return topk(mean_heads(attention), k)
        importance = head_importance(attention)  # (G, H)
        evidence.notes.update(max_head_idx=importance.argmax(1), head_importance=importance)
        if self.heads == "max_head":
            return topk(max_head(attention), k)
        evidence.notes["alpha"] = self.alpha
        return topk(weighted_heads(attention, self.alpha), k)

    def flops(self, rows: int, tokens: int, kept: int, width: int) -> float:
        return 2 * width * width + 2 * rows * width

    def options(self) -> dict[str, object]:
        weighted = {"alpha": self.alpha} if self.heads == "weighted_combination" else {}
        return {} if self.heads == "avg_all_heads" else {"heads": self.heads, **weighted}

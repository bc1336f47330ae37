"""Aggregators: what the kept tokens become. (G, N, D) and (G, k) indices to (G, k, D)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .score import similarity
from .select import bands


@dataclass(frozen=True)
class Merged:
    """Rows that go on in another order than the picture's, or that stand for several tokens.

    tokens (G, k, D) in the order in which they go on. origin (G, k): the token in whose place each stands, whose position
    it has; a rearrangement of the kept ones. sizes (G, k): how many tokens each stands for, which adds log size to its
    logit as a key in every later layer; None adds nothing.
    """

    tokens: Tensor
    origin: Tensor
    sizes: Tensor | None = None


def gather(tokens: Tensor, kept: Tensor) -> Tensor:
    """The kept tokens as they are: hard pruning."""
    return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))


def mean_cells(tokens: Tensor, height: int, width: int, k: int) -> Tensor:
    """The mean of each of the k cells of ``select.bands``."""
    grid = tokens.unflatten(1, (height, width))
    cells = [grid[:, r.start : r.stop, c.start : c.stop].flatten(1, 2).mean(1) for r, c in bands(height, width, k)]
    return torch.stack(cells, dim=1) if cells else tokens[:, :0]


def cosine_weights(tokens: Tensor, kept: Tensor, temperature: float) -> Tensor:
    """softmax(cosine / temperature) of every kept token to all tokens, in float32: (G, k, N)."""
    return (similarity(gather(tokens, kept), tokens) / temperature).softmax(-1)


def cosine_attention(tokens: Tensor, kept: Tensor, temperature: float) -> Tensor:
    """Every kept token becomes ``cosine_weights`` @ all tokens, a convex mixture of the tokens like it."""
    return (cosine_weights(tokens, kept, temperature) @ tokens.float()).to(tokens.dtype)


def head_attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Multi-head attention of (G, k, D) on (G, N, D), scaled by 1 / sqrt(D / heads), through torch's fused kernels."""
    queries, keys, values = (states.unflatten(-1, (heads, -1)).transpose(1, 2) for states in (queries, keys, values))
    return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)


def normalise(tokens: Tensor) -> Tensor:
    """Tokens of root mean square one, so that a scaled product of equal ones is the square root of the head's width."""
    return F.rms_norm(tokens.float(), tokens.shape[-1:]).to(tokens.dtype)


class IdentityLinear(nn.Linear):
    """A square linear map without bias that begins as the identity."""

    def __init__(self, width: int):
        super().__init__(width, width, bias=False)

    def reset_parameters(self) -> None:
        nn.init.eye_(self.weight)


def zero_linear(width: int, out: int, bias: bool = True) -> nn.Linear:
    """A linear map that begins at zero."""
    layer = nn.Linear(width, out, bias)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class CrossAttention(nn.Module):
    """Multi-head cross-attention with q, k, v and o projections that begin as the identity.

    Untrained it is ``head_attention(normalise(x_kept), normalise(x), x)``: every head of a kept token is a convex mixture
    of that head of all tokens. Raises ValueError where the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1 or width % heads:
            raise ValueError(f"num_heads={heads!r} must be a whole number that divides the width {width}")
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (IdentityLinear(width) for _ in range(4))

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, heads: int | None = None) -> Tensor:
        """(G, k, D), (G, N, D), (G, N, D) to (G, k, D), with ``heads``, if given, in place of the module's own."""
        queries, keys = self.q_proj(normalise(queries)), self.k_proj(normalise(keys))
        return self.o_proj(head_attention(queries, keys, self.v_proj(values), heads or self.heads))

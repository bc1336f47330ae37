"""What mergers read from a question's words."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..aggregate import normalise, zero_linear


class Question(nn.Module):
    """What states (B, R, width) read from a question's words (B, T, d_text): (B, R, width), zero at the start."""

    def __init__(self, d_text: int, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.word_proj = nn.Linear(d_text, width)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.output_proj = zero_linear(width, width)

    def forward(self, states: Tensor, question: Tensor, mask: Tensor | None = None) -> Tensor:
        if not question.shape[1]:
            return torch.zeros_like(states)
        words = self.word_proj(normalise(question.to(states.dtype)))
        split = [
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q_proj(normalise(states)), self.k_proj(words), self.v_proj(words))
        ]
        if mask is not None:
            # A row without any word reads all of its padding alike, which is the same for every picture.
            mask = (mask | ~mask.any(1, keepdim=True))[:, None, None]
        read = nn.functional.scaled_dot_product_attention(*split, attn_mask=mask)
        return self.output_proj(read.transpose(1, 2).flatten(2))

"""Token condensation as modules of their own (document 000): choose centroids, let them take up the rest.

Shapes: B batch, N tokens, M centroids, D width, S sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llava.reduction import select
from llava.reduction.aggregate import CrossAttention, gather
from llava.reduction.centres import STRATEGIES
from llava.reduction.score import similarity


class TokenCondensation(nn.Module):
    """Condense N tokens to M: centroids by cosine similarity, which take up all tokens by multi-head cross-attention.

    ``selection_strategy``: "fps" and "connectivity" as documented, also "tome" and "dpp". The projections begin as the
    identity on normalised tokens (``llava.reduction.aggregate.CrossAttention``), so that the untrained module gives convex
    mixtures of real tokens; the authors' are random. Centroids come back in ascending order of position, and fps begins at
    the most central token: the same input gives the same output. Cost: N^2 D + 2 (M + N) D^2 + 2 M N D multiply-adds.

    Raises ValueError for an unknown strategy and for heads that do not divide the width.
    """

    def __init__(self, hidden_size: int, num_heads: int = 8, selection_strategy: str = "fps"):
        super().__init__()
        if selection_strategy not in STRATEGIES:
            raise ValueError(
                f"selection_strategy={selection_strategy!r} is unknown; choose one of {', '.join(STRATEGIES)}"
            )
        self.selection_strategy = selection_strategy
        self.attention = CrossAttention(hidden_size, num_heads)

    def compute_similarity_matrix(self, features: Tensor) -> Tensor:
        """Cosines between all tokens (B, N, D), in float32: (B, N, N)."""
        return similarity(features)

    def select_centroids_fps(self, features: Tensor, similarity_matrix: Tensor, num_centroids: int) -> Tensor:
        """Farthest point sampling, in the order of picking: (B, M)."""
        return select.fps(similarity_matrix, num_centroids)

    def select_centroids_connectivity(self, similarity_matrix: Tensor, num_centroids: int) -> Tensor:
        """The tokens of highest degree, highest first: (B, M)."""
        return select.connectivity(similarity_matrix, num_centroids)

    def cross_attention_aggregation(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What queries (B, M, D) take up of keys and values (B, N, D): (B, M, D)."""
        return self.attention(query, key, value)

    def forward(self, features: Tensor, num_centroids: int) -> tuple[Tensor, Tensor]:
        """(B, N, D) to the condensed tokens (B, M, D) and the centroids' indices (B, M), ascending.

        With M >= N the tokens come back unchanged. Raises ValueError for M < 1.
        """
        if isinstance(num_centroids, bool) or not isinstance(num_centroids, int) or num_centroids < 1:
            raise ValueError(f"num_centroids={num_centroids!r} must be a whole number of at least 1")
        batch, tokens, _ = features.shape
        if num_centroids >= tokens:
            return features, torch.arange(tokens, device=features.device).expand(batch, -1)
        alike = self.compute_similarity_matrix(features)
        kept = STRATEGIES[self.selection_strategy](alike, num_centroids, None).sort(dim=1).values
        return self.cross_attention_aggregation(gather(features, kept), features, features), kept


class TokenCondensationIntegrated(nn.Module):
    """``TokenCondensation`` on the visual part of a sequence: prefix | visual | suffix, the outer parts untouched."""

    def __init__(self, hidden_size: int, num_heads: int = 8, selection_strategy: str = "connectivity"):
        super().__init__()
        self.condensation_module = TokenCondensation(hidden_size, num_heads, selection_strategy)

    def condense_vision_tokens(
        self, hidden_states: Tensor, vision_token_start: int, vision_token_end: int, target_num_tokens: int
    ) -> tuple[Tensor, Tensor]:
        """The shorter sequence (B, S - N + M, D), and where each of its rows stood in the long one (B, S - N + M).

        The visual tokens are ``vision_token_start`` to ``vision_token_end`` (not included). Raises ValueError for a span
        outside the sequence.
        """
        batch, length, _ = hidden_states.shape
        if not 0 <= vision_token_start < vision_token_end <= length:
            raise ValueError(
                f"vision_token_start={vision_token_start}, vision_token_end={vision_token_end} is no span of the {length}"
                " tokens; give 0 <= start < end <= length"
            )
        visual = hidden_states[:, vision_token_start:vision_token_end]
        condensed, kept = self.condensation_module(visual, target_num_tokens)
        place = torch.arange(length, device=hidden_states.device).expand(batch, -1)
        parts = place[:, :vision_token_start], kept + vision_token_start, place[:, vision_token_end:]
        shorter = hidden_states[:, :vision_token_start], condensed, hidden_states[:, vision_token_end:]
        return torch.cat(shorter, dim=1), torch.cat(parts, dim=1)

    forward = condense_vision_tokens

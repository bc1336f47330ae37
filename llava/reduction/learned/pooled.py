"""V3: learned queries pool all tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..aggregate import cosine_weights, gather, head_attention, normalise, zero_linear
from .base import PATCHES, SOFTNESS, Merger, Merging
from .question import Question
from .start import OCTAVES, farthest, grid_of, patch_positions


class LearnableTokenMergerV3(Merger):
    """V3, ``fixed_pooling``: learned queries pool all tokens by cross-attention; nothing is drawn, nothing is scored.

    Query m stands at the token c_m that farthest-point sampling takes as its m-th: merged_m = s_m + |s_m| W_o F(a_m), s_m =
    softmax(cos(c_m, X) / 0.1) X, a = attention(q + Q(question), h, h), q_m = h(c_m) + pool_queries_m, h = P x + p with p the
    encoding of a patch's place, F a residual two-layer network, |s| the root mean square. W_o begins at zero.
    ``pool_queries`` (M, d_internal) is a parameter from the beginning on. Fewer tokens (``keep``) are the first queries,
    more share the last, so one trained merger serves many budgets.

    Document 003, "fixed pooling"; queries as in Perceiver (arXiv:2103.03206), nesting as in M3 (arXiv:2405.17430).
    Differs from the original: there the queries are a buffer made at the first call, which no optimiser sees, know nothing
    of the picture, and replace its tokens; dropout makes training differ from evaluation; and the question is one mean,
    where here the queries attend to its words. Cost: N^2 d_vision + 2 N d_vision d_internal +
    2 M N (d_internal + d_vision) + M (8 d_internal^2 + d_internal d_vision) multiply-adds.
    """

    def __init__(
        self,
        d_vision: int = 1024,
        d_text: int = 4096,
        d_internal: int = 512,
        num_heads: int = 8,
        merge_ratio: float | int = 0.5,
        use_question: bool = True,
        num_tokens: int = PATCHES,
    ):
        super().__init__(d_vision, d_text if use_question else None, num_heads, d_internal, merge_ratio)
        self.vision_proj = nn.Linear(d_vision, d_internal)
        self.place_proj = nn.Linear(4 * OCTAVES, d_internal, bias=False)
        self.pool_queries = nn.Parameter(0.02 * torch.randn(self.budget(num_tokens), d_internal))
        self.query_modulator = Question(d_text, d_internal, num_heads) if use_question else None
        self.query_norm, self.token_norm, self.norm = (nn.LayerNorm(d_internal) for _ in range(3))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(d_internal, d_internal) for _ in range(3))
        self.feed_forward = nn.Sequential(
            nn.Linear(d_internal, 2 * d_internal), nn.GELU(), nn.Linear(2 * d_internal, d_internal)
        )
        self.output_proj = zero_linear(d_internal, d_vision)

    def forward(
        self,
        vision_features: Tensor,
        question_embeddings: Tensor | None = None,
        question_mask: Tensor | None = None,
        keep: int | None = None,
    ) -> Merging:
        """Merge; ``question_mask`` (B, T) says which words are real, ``keep`` overrules ``merge_ratio``."""
        self.check(vision_features, question_embeddings)
        tokens = vision_features.shape[1]
        chosen, turn = farthest(vision_features, self.budget(tokens, keep)).sort(dim=1)
        weight = cosine_weights(vision_features, chosen, SOFTNESS)  # (B, M, N)
        start = (weight @ vision_features.float()).to(vision_features.dtype)
        positions = patch_positions(*grid_of(tokens)).to(vision_features)
        seen = self.token_norm(self.vision_proj(normalise(vision_features)) + self.place_proj(positions))  # (B, N, d)
        queries = gather(seen, chosen) + self.pool_queries[turn.clamp(max=len(self.pool_queries) - 1)]
        if self.query_modulator is not None:
            queries = queries + self.query_modulator(queries, question_embeddings, question_mask)
        asked, keys = self.q_proj(self.query_norm(queries)), self.k_proj(seen)
        pooled = queries + head_attention(asked, keys, self.v_proj(seen), self.num_heads)
        pooled = self.norm(pooled + self.feed_forward(self.norm(pooled)))
        size = start.float().square().mean(-1, keepdim=True).sqrt().to(start)
        residual = size * self.output_proj(pooled)
        return {
            "merged_features": start + residual,
            "merge_indices": chosen,
            "merge_weights": weight,
            "merge_residual": residual,
            "importance_logits": None,
        }

    def flops(self, tokens: int, kept: int) -> float:
        width = self.q_proj.in_features
        ranked = tokens**2 * self.d_vision + kept * tokens
        on_tokens = tokens * width * (self.d_vision + self.place_proj.in_features + 2 * width)
        on_merged = kept * width * (self.d_vision + (7 if self.query_modulator is not None else 5) * width)
        mixed = 2 * kept * tokens * (width + self.d_vision)
        return 2.0 * (ranked + on_tokens + on_merged + mixed)

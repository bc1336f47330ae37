"""V1 and V2: a learned score takes the tokens that stay, and each is mixed with those it is like."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import select
from ..aggregate import IdentityLinear, gather, normalise, zero_linear
from .base import SOFTNESS, Merger, Merging
from .question import Question
from .start import farthest, rank_preference

ANNEALED = 0.1  # the temperature that training ends with; it begins with 1
NOISE = 0.3  # of the Gumbel noise at the beginning; with 1 the hundreds of far tokens drown the few near ones


class LearnableTokenMerger(Merger):
    """V1: a learned score takes M tokens, and each is mixed with those it is like, in learned shares.

    Scores l = scorer(x) - ln(1 + r), r = 0, 1, ... the order of farthest-point sampling, choose the M highest, and
    merged_m = sum_n w_mn x_n with w_m = softmax_n(cos(q(c_m), k(x_n)) / t + share(x_n)), mean over the heads. In training l is
    disturbed by Gumbel noise that fades with the temperature tau, and the choice is straight-through: backward, a chosen
    token stands in its place with the weight sigmoid((l - l_(M+1)) / tau) and the picture's mean with the rest, so that the
    score learns what each choice is worth. ``anneal`` lowers tau from 1 to 0.1; then there is no noise left, and training and
    evaluation compute the same.

    Document 003, "Gumbel top-k"; Jang et al. 2017 (arXiv:1611.01144). Differs from the original: weights are
    normalised by the mass (there a merged token is about N / M tokens long), the scorer gets a gradient (there none), tau is
    in the state dict, heads are used, order is raster, t is learned from 0.1 on (there 1, which makes every merged token
    nearly the mean of all), and scores begin at farthest points (there at random). Cost: N^2 d + N d^2 / 2 + 2 N d^2 +
    2 M N d multiply-adds.
    """

    temperature: Tensor

    def __init__(
        self, d_model: int = 1024, num_heads: int = 4, merge_ratio: float | int = 0.5, use_gumbel: bool = True
    ):
        super().__init__(d_model, None, num_heads, d_model, merge_ratio)
        self._build(d_model, use_gumbel)
        self.q_proj, self.k_proj = IdentityLinear(d_model), IdentityLinear(d_model)

    def _build(self, width: int, use_gumbel: bool) -> None:
        self.use_gumbel = use_gumbel
        self.scorer = nn.Sequential(nn.Linear(width, max(1, width // 2)), nn.GELU(), zero_linear(max(1, width // 2), 1))
        self.share = zero_linear(width, 1, bias=False)
        self.log_sharpness = nn.Parameter(torch.full((self.num_heads, 1, 1), -math.log(SOFTNESS)))
        self.register_buffer("temperature", torch.tensor(1.0))

    def anneal(self, progress: float) -> None:
        """Set the temperature for a share of the training that is done: from 1 to 0.1 in its first half, in proportion."""
        self.temperature.fill_(1 - (1 - ANNEALED) * min(1.0, max(0.0, 2 * progress)))

    def compared(self, vision: Tensor, question: Tensor | None, mask: Tensor | None) -> Tensor:
        """What scores and similarities are read from: (B, N, width)."""
        return normalise(vision)

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
        count = self.budget(tokens, keep)
        seen = self.compared(vision_features, question_embeddings, question_mask)
        logits = self.scorer(seen)[..., 0].float() + rank_preference(
            farthest(vision_features, min(tokens, 2 * count)), tokens
        )
        order = select.topk(self._disturbed(logits), tokens)
        chosen = order[:, :count].sort(dim=1).values
        queries, keys = self.q_proj(gather(seen, chosen)), self.k_proj(seen)
        weight = self._weights(queries, keys, self.share(seen)[..., 0])
        merged = weight.to(vision_features.dtype) @ vision_features
        if self.training and count < tokens:
            merged = self._straight_through(merged, vision_features, logits, order, chosen)
        return {
            "merged_features": merged,
            "merge_indices": chosen,
            "merge_weights": weight,
            "merge_residual": None,
            "importance_logits": logits,
        }

    def flops(self, tokens: int, kept: int) -> float:
        width = self.q_proj.in_features
        scorer = sum(layer.weight.numel() for layer in self.scorer if isinstance(layer, nn.Linear))
        projected = tokens * (scorer + width + width**2) + kept * width**2
        ranked = tokens**2 * self.d_vision + 2 * kept * tokens
        return 2.0 * (ranked + projected + kept * tokens * (width + self.d_vision))

    def _disturbed(self, logits: Tensor) -> Tensor:
        """Scores with Gumbel noise while training; it is gone when the temperature has reached its end."""
        left = (float(self.temperature) - ANNEALED) / (1 - ANNEALED) if self.training and self.use_gumbel else 0.0
        if left <= 1e-6:
            return logits.detach()
        return (logits - NOISE * left * torch.empty_like(logits).exponential_().log()).detach()

    def _weights(self, queries: Tensor, keys: Tensor, share: Tensor) -> Tensor:
        """How much of every token (B, N, width) is in the chosen (B, M, width), mean over the heads: (B, M, N)."""
        queries, keys = (
            nn.functional.normalize(states.float().unflatten(-1, (self.num_heads, -1)).transpose(1, 2), dim=-1)
            for states in (queries, keys)
        )
        near = (queries @ keys.transpose(-1, -2)).float() * self.log_sharpness.exp()
        return (near + share.float()[:, None, None]).softmax(-1).mean(1)

    def _straight_through(
        self, merged: Tensor, vision: Tensor, logits: Tensor, order: Tensor, chosen: Tensor
    ) -> Tensor:
        """The merged tokens as they are, with the gradient of a choice that hesitates between them and the mean."""
        bar = logits.gather(1, order[:, chosen.shape[1] :]).amax(1, keepdim=True).detach()
        soft = ((logits.gather(1, chosen) - bar) / self.temperature).sigmoid()[..., None]
        hesitant = soft * (merged - vision.mean(1, keepdim=True)).detach()
        return merged + (hesitant - hesitant.detach()).to(merged.dtype)


LearnableTokenMergerV1 = LearnableTokenMerger


class LearnableTokenMergerV2(LearnableTokenMerger):
    """V2: as V1, with scores and similarities from ``d_internal`` features that have read the question.

    h = P x + W_o attention(P x, question, question), W_o zero at the start. Differs from the original: the tower's own
    features are merged, where the original merges a random projection back to d_vision, without a residual.
    Untrained: as V1, but tokens are alike where a random rotation to ``d_internal`` leaves them alike. Cost: N^2
    d_vision + 3 N d_vision d_internal + 2 N T d_internal + 2 M N d_internal + M N d_vision multiply-adds.
    """

    def __init__(
        self,
        d_vision: int = 1024,
        d_text: int = 4096,
        d_internal: int = 512,
        num_heads: int = 4,
        merge_ratio: float | int = 0.5,
        use_gumbel: bool = True,
    ):
        Merger.__init__(self, d_vision, d_text, num_heads, d_internal, merge_ratio)
        self._build(d_internal, use_gumbel)
        self.vision_proj = nn.Linear(d_vision, d_internal, bias=False)
        nn.init.orthogonal_(self.vision_proj.weight)
        self.question = Question(d_text, d_internal, num_heads)
        self.q_proj, self.k_proj = IdentityLinear(d_internal), IdentityLinear(d_internal)

    def compared(self, vision: Tensor, question: Tensor | None, mask: Tensor | None) -> Tensor:
        seen = self.vision_proj(normalise(vision))
        return normalise(seen + self.question(seen, question, mask))

    def flops(self, tokens: int, kept: int) -> float:
        width = self.q_proj.in_features
        return super().flops(tokens, kept) + 2.0 * tokens * width * (self.d_vision + 2 * width)

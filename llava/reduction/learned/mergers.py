"""Learnable mergers of document 003: N features of the tower become M, before the projector runs once on those M.

All are called alike, ``merger(vision_features (B, N, d_vision), question_embeddings (B, T, d_text) or None)``, and return

====================  =============================================================================================
``merged_features``   (B, M, d_vision), in raster order
``merge_indices``     (B, M) the token each merged one stands at, ascending
``merge_weights``     (B, M, N) how much of every token is in each merged one; rows sum to 1, and V1's and V2's
                      ``merged_features`` are ``merge_weights @ vision_features``
``merge_residual``    (B, M, d_vision) what V3 adds to that mixture, zero in the untrained module; None for V1 and V2
``importance_logits`` (B, N), None where nothing is scored
====================  =============================================================================================

Untrained, all three are ``custom_selection@features``: the M tokens that are farthest from one another, each mixed with
the tokens like it by cosine attention, so that training starts where it does not hurt. Shapes: B pictures, N tokens of
a tower's feature width d_vision, T words of the language model's embedding width d_text, M merged.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .. import select
from ..aggregate import IdentityLinear, cosine_weights, gather, head_attention, normalise
from ..score import similarity

Merged = dict[str, Tensor | None]

PATCHES = 24 * 24  # of CLIP ViT-L/14 at 336 pixels, the tower of document 003
OCTAVES = 4  # frequencies of V3's encoding of a patch's row and column
ANNEALED = 0.1  # the temperature that training ends with; it begins with 1
NOISE = 0.3  # of the Gumbel noise at the beginning; with 1 the hundreds of far tokens drown the few near ones
SOFTNESS = 0.1  # the temperature of the mixtures that training starts with, as that of ``custom_selection``


class Merger(nn.Module):
    """What the three versions share: widths, the budget and their checks.

    ``merge_ratio``: a fraction of the tokens, or a count. Raises ValueError for a width that is not the merger's, a
    budget above the tokens, and a question that is missing or of the wrong width.
    """

    def __init__(self, d_vision: int, d_text: int | None, num_heads: int, inside: int, merge_ratio: float | int):
        super().__init__()
        for name, value in (
            ("d_vision", d_vision),
            ("d_text", d_text or 1),
            ("num_heads", num_heads),
            ("width", inside),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
        if inside % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide the width {inside} that the merger compares tokens in")
        self.d_vision, self.d_text, self.num_heads, self.merge_ratio = d_vision, d_text, num_heads, merge_ratio
        self.budget(PATCHES)

    @property
    def needs_question(self) -> bool:
        """Whether ``question_embeddings`` must be given."""
        return self.d_text is not None

    def budget(self, tokens: int, keep: int | None = None) -> int:
        """M for N ``tokens``: ``keep`` where it is given, else what ``merge_ratio`` says."""
        ratio = self.merge_ratio if keep is None else keep
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not ratio > 0:
            raise ValueError(f"merge_ratio={ratio!r} must be a fraction in (0, 1] or a count of at least 1")
        if isinstance(ratio, float) and ratio > 1:
            raise ValueError(f"merge_ratio={ratio!r} is a fraction above 1; give a whole number for a count")
        count = max(1, round(ratio * tokens)) if isinstance(ratio, float) else ratio
        if keep is not None and count > tokens:
            raise ValueError(f"{count} merged tokens are asked for, but only {tokens} arrive; give at most {tokens}")
        return min(count, tokens)

    def check(self, vision: Tensor, question: Tensor | None) -> None:
        """Refuse what does not fit this merger, naming both widths."""
        if vision.dim() != 3 or vision.shape[2] != self.d_vision:
            raise ValueError(
                f"vision_features of shape {tuple(vision.shape)} do not fit this merger of d_vision={self.d_vision}; give "
                "the tower's own features (B, N, d_vision), before the projector"
            )
        if not self.needs_question:
            return
        if question is None:
            raise ValueError(f"{type(self).__name__} was made to read the question, but question_embeddings is None")
        if question.dim() != 3 or question.shape[2] != self.d_text or len(question) != len(vision):
            raise ValueError(
                f"question_embeddings of shape {tuple(question.shape)} do not fit: {len(vision)} pictures and "
                f"d_text={self.d_text} need ({len(vision)}, T, {self.d_text})"
            )

    def flops(self, tokens: int, kept: int) -> float:
        """Floating-point operations for one picture, except those that grow with the question's words."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"d_vision={self.d_vision}, d_text={self.d_text}, merge_ratio={self.merge_ratio}"


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
        self.scorer = nn.Sequential(nn.Linear(width, max(1, width // 2)), nn.GELU(), _zero(max(1, width // 2), 1))
        self.share = _zero(width, 1, bias=False)
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
    ) -> Merged:
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
        self.output_proj = _zero(d_internal, d_vision)

    def forward(
        self,
        vision_features: Tensor,
        question_embeddings: Tensor | None = None,
        question_mask: Tensor | None = None,
        keep: int | None = None,
    ) -> Merged:
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


class Question(nn.Module):
    """What states (B, R, width) read from a question's words (B, T, d_text): (B, R, width), zero at the start."""

    def __init__(self, d_text: int, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.word_proj = nn.Linear(d_text, width)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.output_proj = _zero(width, width)

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


MERGERS: dict[str, type[Merger]] = {
    "simple": LearnableTokenMerger,
    "question_aware": LearnableTokenMergerV2,
    "fixed_pooling": LearnableTokenMergerV3,
}


def make_merger(merger_type: str, **arguments: Any) -> Merger:
    """A merger by its documented ``merger_type``. Raises ValueError for an unknown one."""
    if merger_type not in MERGERS:
        raise ValueError(f"merger_type={merger_type!r} is unknown; choose one of {', '.join(MERGERS)}")
    return MERGERS[merger_type](**arguments)


def grid_of(tokens: int) -> tuple[int, int]:
    """How tokens lie on the picture: a square, or one line where their number is not a square."""
    side = math.isqrt(tokens)
    return (side, side) if side * side == tokens else (1, tokens)


def patch_positions(height: int, width: int) -> Tensor:
    """Sines and cosines of each patch's row and column at doubling frequencies: (height * width, 4 * OCTAVES)."""
    rows, columns = torch.meshgrid(_centres(height), _centres(width), indexing="ij")
    angles = torch.stack([rows, columns], -1).flatten(0, 1)[..., None] * (math.pi * 2.0 ** torch.arange(OCTAVES))
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1)


def farthest(tokens: Tensor, count: int) -> Tensor:
    """The tokens (B, count) that are farthest from one another under cosine similarity, in the order of the choice.

    In full precision also under autocast: rounded similarities tie, and training would not choose what evaluation does.
    """
    with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
        return select.fps(similarity(tokens), count)


def rank_preference(order: Tensor, tokens: int) -> Tensor:
    """-ln(1 + r) for the tokens of an ``order`` (B, R), r their place in it, and -ln(1 + R) for all others: (B, tokens)."""
    ranks = torch.full((len(order), tokens), order.shape[1], device=order.device)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return -torch.log1p(ranks.scatter(1, order, places).float())


def _centres(count: int) -> Tensor:
    return (torch.arange(count) + 0.5) / count


def _zero(width: int, out: int, bias: bool = True) -> nn.Linear:
    """A linear map that begins at zero."""
    layer = nn.Linear(width, out, bias)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer

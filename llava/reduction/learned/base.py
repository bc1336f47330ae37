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

from torch import Tensor, nn

Merging = dict[str, Tensor | None]  # what a merger returns

PATCHES = 24 * 24  # of CLIP ViT-L/14 at 336 pixels, the tower of document 003
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

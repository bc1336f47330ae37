"""CLIP's text side: what a question is in the space that CLIP shares between words and patches.

Shapes: G questions, M segments of one, T tokens, E width of the shared space, V the vision tower's width, P patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from llava.model.checkpoint import find_folder, stored_tensors, weight_headers

PROJECTION = "visual_projection.weight"


@dataclass
class CLIPText:
    """The text tower, its tokenizer, and the projection of patches; frozen, and no part of the model's own weights."""

    model: Any
    tokenizer: Any
    projection: Tensor

    @classmethod
    def load(cls, name: str, inside: tuple[Path, ...], device: torch.device) -> CLIPText:
        """Reads the text side of a tower's folder. name, inside: as in ``VisionTower``.

        Raises ValueError for a folder that holds the vision side alone, naming what may stand for a text tower.
        """
        folder = find_folder(name, "vision tower", inside)
        headers = weight_headers(folder)
        if PROJECTION not in headers or not any(key.startswith("text_model.") for key in headers):
            raise ValueError(
                f"{folder} holds CLIP's vision side alone, and the plan asks for its text tower; take the whole CLIP, or"
                " compare the question in the language model's embeddings with the method's option relevance=embeddings"
            )
        model: Any = CLIPTextModelWithProjection.from_pretrained(folder)
        model.requires_grad_(False)
        projection = dict(stored_tensors(folder, lambda name: name == PROJECTION))[PROJECTION]
        return cls(model.eval().to(device), CLIPTokenizer.from_pretrained(folder), projection.float().to(device))

    def project(self, patches: Tensor, norm: nn.Module) -> Tensor:
        """Patches of the tower (G, P, V) after its last norm, in the shared space: (G, P, E), float32."""
        weight = next(norm.parameters())
        return norm(patches.to(weight.dtype)).float() @ self.projection.T

    @torch.no_grad()
    def encode(self, texts: list[str]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Texts as segments, (G, M, E) and which are real (G, M), and as tokens, (G, T, E) and which are real (G, T).

        A segment is as much as CLIP reads at once, 75 tokens between its two marks; its row is that of the end of the text.
        The tokens are those of all segments, with the marks at the beginning but without the ends.
        """
        pieces = [self._segments(text) for text in texts]
        limit = max(len(piece) for segments in pieces for piece in segments)
        end = self.tokenizer.eos_token_id
        ids = torch.tensor(
            [piece + [end] * (limit - len(piece)) for segments in pieces for piece in segments],
            device=self.projection.device,
        )
        lengths = torch.tensor([len(piece) for segments in pieces for piece in segments], device=ids.device)
        out = self.model(input_ids=ids)
        states = self.model.text_projection(out.last_hidden_state).float()  # (all segments, limit, E)
        ends = states[torch.arange(len(ids), device=ids.device), lengths - 1]
        counts = [len(segments) for segments in pieces]
        words = [state[: length - 1] for state, length in zip(states, lengths.tolist())]
        starts = [sum(counts[:number]) for number in range(len(counts))]
        tokens = [torch.cat(words[start : start + count]) for start, count in zip(starts, counts)]
        return _padded(list(ends.split(counts))), _padded(tokens)

    def _segments(self, text: str) -> list[list[int]]:
        """The tokens of a text in pieces of at most what the model reads, each between the two marks."""
        first, *rest = self.tokenizer(text)["input_ids"]
        body, most = rest[:-1], self.model.config.max_position_embeddings - 2
        parts = [body[start : start + most] for start in range(0, len(body), most)] or [[]]
        return [[first, *part, rest[-1]] for part in parts]


def _padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    real = [torch.ones(len(row), dtype=torch.bool, device=row.device) for row in rows]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), nn.utils.rnn.pad_sequence(real, batch_first=True)

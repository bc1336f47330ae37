from __future__ import annotations

import torch
from torch import Tensor

from llava.reduction import make_stage
from tests.reduction.methods.golden import Case


class Given:
    """What the released code read of one stage, in place of a decoder: its attention and the positions of its rows.

    Words are the raters and one more, which nothing points to.
    """

    def __init__(self, attention: Tensor, positions: Tensor, raters: Tensor, start: int, head_dim: int, theta: float):
        heads, count, tokens = attention.shape
        self.seen = torch.cat([attention, torch.zeros(heads, 1, tokens)], dim=1)[None]
        image, text = positions[start : start + tokens], positions[start + tokens :]
        apart = (text[raters][:, None] - image).double()  # (R, N)
        angles = apart[..., None] * theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        bias = (2 * angles.cos().sum(-1) * head_dim**-0.5).float()
        self.bias = torch.cat([bias, torch.ones(1, tokens)])[None]

    def attention(self, rows: str, heads: str) -> Tensor:
        assert (rows, heads) == ("text", "all")
        return self.seen

    def position_bias(self, rows: str) -> Tensor:
        return self.bias

    def embeddings(self, rows: str) -> tuple[Tensor, Tensor]:
        words = torch.ones(1, self.seen.shape[2], 1)
        words[:, -1] = -9
        states = words if rows == "text" else torch.ones(1, 3, 1)
        return states, torch.ones(states.shape[:2], dtype=torch.bool)


def replay(case: Case) -> None:
    given, said = case.tensors, case.said
    for number, left in enumerate(said["visual_rows_after_each_stage"]):
        evidence = Given(
            given[f"stage{number}_attention"],
            given[f"stage{number}_position_ids"],
            given["rater_indices"],
            case.arguments["image_start"],
            said["head_dim"],
            said["rope_theta"],
        )
        tokens = torch.zeros(1, evidence.seen.shape[-1], 1)
        reducer = make_stage("sparsevlm_plus", layer=3, keep=left).reducer
        kept = reducer.select(tokens, evidence, left).sort(dim=1).values
        assert torch.equal(kept[0], given[f"stage{number}_kept_mask"][0].nonzero()[:, 0])
        torch.testing.assert_close(reducer._score(evidence), given[f"stage{number}_score"], rtol=0, atol=1e-5)

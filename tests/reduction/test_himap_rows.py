"""HiMAP's second stage on a hand-made attention: who is divided by what."""

from __future__ import annotations

import torch

from llava.reduction import Evidence
from llava.reduction.methods.decoder.himap import HiMAP


class Given(Evidence):
    def received(self, rows):
        """Causal rows of four tokens: [1], [.7 .3], [.1 .1 .8], [.1 .1 .1 .7]; column sums 1.9, .5, .9, .7."""
        assert rows == "image"
        return torch.tensor([[1.0, 0, 0, 0], [0.7, 0.3, 0, 0], [0.1, 0.1, 0.8, 0], [0.1, 0.1, 0.1, 0.7]]).sum(0)[None]


def test_column_sums_alone_or_divided_by_the_rows_that_see_them():
    """Seen by 4, 3, 2 and 1 rows: .475, .167, .45 and .7, so the last token comes first."""
    tokens, evidence = torch.zeros(1, 4, 2), Given(torch.zeros(1))
    assert HiMAP(rows="image").select(tokens, evidence, 4).tolist() == [[0, 2, 3, 1]]
    assert HiMAP(rows="image", row_normalised=True).select(tokens, evidence, 4).tolist() == [[3, 0, 2, 1]]

"""OTPrune against determinants that are computed outright."""

from __future__ import annotations

import torch

from llava.reduction import make_stage
from tests.reduction.methods.golden import about


def test_each_step_takes_the_token_that_raises_the_determinant_most():
    torch.manual_seed(0)
    tokens = torch.randn(2, 16, 6) * torch.rand(2, 16, 1) * 5
    for gamma in (0.01, 1.0):
        found = make_stage("otprune", keep=5, gamma=gamma).reducer.select(tokens, about(tokens), 5)
        for image in range(2):
            rows = tokens[image].double()
            kernel, picked = torch.eye(16, dtype=torch.float64) + gamma * rows @ rows.T, []
            for _ in range(5):
                volume = {
                    j: float(torch.logdet(kernel[[*picked, j]][:, [*picked, j]])) for j in range(16) if j not in picked
                }
                picked.append(max(volume, key=lambda j: (volume[j], -j)))
            assert found[image].tolist() == picked

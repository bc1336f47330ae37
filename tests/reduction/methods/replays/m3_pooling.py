from __future__ import annotations

import torch

from llava.reduction import make_stage
from llava.reduction.apply import choose
from tests.reduction.methods.golden import Case, about


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    features = given["features"]
    for scale in arguments["scales"]:
        stage = make_stage("m3", keep=scale, mode="code")
        (part,) = choose(stage, features, about(features), scale)
        torch.testing.assert_close(part.merged.tokens, given[f"pooled_{scale}"], rtol=0, atol=1e-5)
        rows = case.said["rows_out"][str(scale)]
        assert part.merged.tokens.shape[1] == rows == stage.reducer.left(features.shape[1], scale)

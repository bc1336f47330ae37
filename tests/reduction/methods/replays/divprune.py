from __future__ import annotations

import torch

from llava.reduction import make_stage
from llava.reduction.apply import choose
from tests.reduction.methods.golden import Case, about


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    features = given["features"][None]
    stage = make_stage("divprune", keep=float(arguments["threshold_ratio"]))
    budget = stage.budget(features.shape[1])
    assert torch.equal(stage.reducer.select(features, about(features), budget)[0], given["selected_in_order"])
    (part,) = choose(stage, features, about(features), budget)
    assert torch.equal(part.kept[0], given["kept_sorted"])

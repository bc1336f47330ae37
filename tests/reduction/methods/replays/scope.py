from __future__ import annotations

import torch

from llava.reduction import make_stage
from llava.reduction.apply import choose
from tests.reduction.methods.golden import Case, about


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    features, keep = given["features"], arguments["num_selected_token"]
    evidence = about(features, cls_attention=given["cls_attention"])
    stage = make_stage("scope", keep=keep, alpha=float(arguments["alpha"]))
    assert torch.equal(stage.reducer.select(features, evidence, keep), given["selected_in_order"])
    (part,) = choose(stage, features, evidence, keep)
    assert torch.equal(part.kept, given["kept_sorted"])

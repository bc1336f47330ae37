from __future__ import annotations

import torch

from llava.reduction import make_stage
from llava.reduction.apply import choose
from tests.reduction.methods.golden import Case, about


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    features, keep = given["features"], arguments["visual_token_num"]
    evidence = about(features, cls_attention=given["cls_attention"])
    (part,) = choose(make_stage("fastervlm", keep=keep), features, evidence, keep)
    assert torch.equal(part.kept, given["kept_sorted"])
    assert torch.equal(part.merged.tokens, given["output"])

from __future__ import annotations

import torch

from llava.reduction import make_stage
from llava.reduction.apply import choose
from tests.reduction.methods.golden import Case, about


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    features, keep = given["features"], arguments["visual_token_num"]
    with_itself = torch.nn.functional.pad(given["cls_attention"], (1, 0))  # theirs comes without its own column
    stage = make_stage("vispruner", keep=keep, important=arguments["important_ratio"])
    (part,) = choose(stage, features, about(features, cls_attention=with_itself), keep)
    for image, mask in enumerate(given["kept_mask"]):
        assert torch.equal(part.kept[image], mask.nonzero()[:, 0])

from __future__ import annotations

import torch

from llava.reduction import make_stage
from llava.reduction.views import Views, reduce_images
from tests.reduction.methods.golden import Case, GivenTower


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    layers = {0: given["distribution_cls_attention"], -2: given["selection_cls_attention"]}
    owners = [number for number, crops in enumerate(arguments["num_patches"]) for _ in range(crops)]
    tokens, kept = arguments["num_vision_tokens"], []
    for picture, crops in enumerate(arguments["num_patches"]):
        rows = slice(owners.index(picture), owners.index(picture) + crops)
        tower = GivenTower(cls_attention={layer: attention[rows] for layer, attention in layers.items()})
        views = Views([torch.zeros(tokens, 2)] * crops, torch.arange(crops), None, owners=[0] * crops, tower=tower)
        budget = int(crops * tokens * arguments["token_budget_rate"])
        stage = make_stage("hired", keep=budget, alpha=float(arguments["alpha"]), mode="code")
        _, (record,) = reduce_images([stage], "features", views)
        kept.append(record.chosen)
        assert record.after.tolist() == case.said["kept_per_crop"][picture]
    assert torch.equal(torch.cat(kept), given["mask"])

from __future__ import annotations

import torch

from llava.reduction import make_stage
from llava.reduction.apply import choose
from tests.reduction.methods.golden import Case, about


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    features, keys = given["features"], given["keys"]
    evidence = about(features, keys=keys[:, None, 1:], cls_projections=(given["q_cls"][:, None], keys[:, None, 0]))
    rows = given["output"].shape[1]
    options = {"mode": "code", "adaptive": arguments["if_adaptive"]}
    if arguments["variant"] == "plus" and not arguments["if_adaptive"]:
        options["ratio"] = float(arguments["reduction_ratio"])
    name = {"prumerge": "prumerge", "plus": "prumerge_plus"}[arguments["variant"]]
    keep = features.shape[1] if arguments["if_adaptive"] else rows
    (part,) = choose(make_stage(name, keep=keep, **options), features, evidence, keep)
    torch.testing.assert_close(part.merged.tokens, given["output"], rtol=0, atol=1e-5)
    listed = given["kept_indices"]
    for image, origin in enumerate(part.merged.origin):
        first = [number for number, token in enumerate(listed[image].tolist()) if token not in listed[image, :number]]
        assert torch.equal(origin[first], listed[image][first])

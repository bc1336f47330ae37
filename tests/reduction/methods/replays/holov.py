from __future__ import annotations

import torch

from llava.reduction import make_stage
from llava.reduction.apply import choose
from tests.reduction.methods.golden import Case, about


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    features, keep = given["features"], arguments["new_image_token_num"]
    evidence = about(features, cls_attention=given["cls_attention"])
    stage = make_stage("holov", keep=keep, chunks=arguments["num_patches"], mode="code")
    (part,) = choose(stage, features, evidence, keep)
    torch.testing.assert_close(part.merged.tokens, given["output"], rtol=0, atol=1e-5)
    real = given["output_indices"] >= 0  # the others are rows of zeros
    assert torch.equal(part.merged.origin[real], given["output_indices"][real])

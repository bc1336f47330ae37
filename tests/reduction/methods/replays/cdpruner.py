from __future__ import annotations

import torch

from llava.reduction import make_stage
from llava.reduction.apply import choose
from tests.reduction.methods.golden import Case, about


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    features, keep = given["projected_features"], arguments["visual_token_num"]
    texts = given["text_embeds"].expand(len(features), -1, -1)
    real = torch.ones(texts.shape[:2], dtype=torch.bool)
    evidence = about(features, clip_patches=given["image_embeds"], clip_text=(texts, real))
    (part,) = choose(make_stage("cdpruner", keep=keep, mode="code"), features, evidence, keep)
    assert torch.equal(part.kept, given["kept_sorted"])

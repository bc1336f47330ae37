from __future__ import annotations

import torch

from llava.reduction import make_stage
from llava.reduction.apply import choose
from tests.reduction.methods.golden import Case, about


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    features = given["features"]
    normed = torch.nn.functional.layer_norm(features, features.shape[-1:], given["ln_weight"], given["ln_bias"], 1e-5)
    texts = given["text_embeds"][:, None]
    evidence = about(
        features,
        clip_patches=normed @ given["visual_projection"].T,
        clip_text=(texts, torch.ones(texts.shape[:2], dtype=torch.bool)),
    )
    share = float(arguments["mm_vision_token_reduce_func"].split(":")[1])
    adaptive, tokens = share < 0, features.shape[1]
    keep = tokens if adaptive else int(tokens * share) + 1
    (part,) = choose(make_stage("trim", keep=keep, adaptive=adaptive, mode="code"), features, evidence, keep)
    assert torch.equal(part.merged.origin[:, :-1], given["kept_sorted"])
    torch.testing.assert_close(part.merged.tokens, given["output_fp16"].float(), rtol=0, atol=1e-3)

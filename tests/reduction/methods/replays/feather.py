from __future__ import annotations

import torch

from llava.reduction import make_stage
from tests.reduction.methods.golden import Case, run


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    start, after = arguments["image_start"], case.said["text_rows_after_image"]
    tokens, share = given["inputs_embeds"].shape[1] - start - after, 1 - arguments["fastv_ratio"]
    name, _, stride = arguments["fastv_predefined_mask"].partition("_s=")
    assert name == "no_rope"
    first, *later = arguments["fastv_k"]
    stages = [make_stage("feather", layer=first, keep=int(tokens * share), grid=int(stride or 0))]
    left = len(given["stage0_kept"])
    stages += [make_stage("feather", layer=layer, keep=int(left * share * share)) for layer in later]
    outcome = run(case, stages, start, tokens)
    for number in range(len(stages)):
        assert torch.equal(outcome.kept(number, start)[0], given[f"stage{number}_kept"])
    torch.testing.assert_close(outcome.last_hidden, given["last_hidden_state"], rtol=0, atol=1e-4)

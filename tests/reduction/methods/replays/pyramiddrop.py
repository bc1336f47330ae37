from __future__ import annotations

import torch

from llava.reduction import make_stage
from tests.reduction.methods.golden import Case, run


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    start = arguments["image_token_posi"]
    tokens = given["inputs_embeds"].shape[1] - arguments["prompt_len"]
    stages = [
        make_stage("pyramiddrop", layer=layer, keep=int(tokens * ratio))
        for layer, ratio in zip(arguments["layer_list"], arguments["image_token_ratio_list"])
    ]
    outcome = run(case, stages, start, tokens)
    for number in range(len(stages)):
        assert torch.equal(outcome.kept(number, start), given[f"stage{number}_kept"])
    torch.testing.assert_close(outcome.last_hidden, given["last_hidden_state"], rtol=0, atol=1e-4)

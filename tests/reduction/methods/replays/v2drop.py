from __future__ import annotations

import torch

from llava.reduction import make_stage
from tests.reduction.methods.golden import Case, run


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    rows = given["inputs_embeds"].shape[1] - case.said["text_rows_after_image"]
    tokens = case.said.get("image_tokens", 576)
    start, left, stages = rows - tokens, tokens, []
    for layer, ratio in zip(arguments["layers"], arguments["keep_ratio_of_the_current_rows"]):
        left = max(1, int(left * ratio))
        stages.append(make_stage("v2drop", layer=layer, keep=left))
    outcome = run(case, stages, start, tokens)
    for number in range(len(stages)):
        assert torch.equal(outcome.kept(number, start)[0], given[f"stage{number}_kept"])
    torch.testing.assert_close(outcome.last_hidden, given["last_hidden_state"], rtol=0, atol=1e-4)

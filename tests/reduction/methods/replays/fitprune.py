from __future__ import annotations

import torch

from llava.reduction import make_stage
from tests.reduction.methods.golden import Case, run


def replay(case: Case) -> None:
    given = case.tensors
    kept = given["kept_after_attention_of_layer"]
    tokens, left, stages = kept.shape[1], kept.shape[1], []
    start = given["inputs_embeds"].shape[1] - case.said["text_rows_after_image"] - tokens
    for layer, removed in enumerate(case.said["removed_per_layer"][:-1]):
        left -= removed
        if removed:
            stages.append(make_stage("fitprune", layer=layer + 1, keep=left))
    outcome = run(case, stages, start, tokens)
    for number, stage in enumerate(stages):
        assert torch.equal(outcome.kept(number, start)[0], kept[stage.layer - 1].nonzero()[:, 0])
    torch.testing.assert_close(outcome.last_hidden, given["last_hidden_state"], rtol=0, atol=1e-4)

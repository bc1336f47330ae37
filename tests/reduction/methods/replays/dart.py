from __future__ import annotations

import torch

from llava.reduction import make_stage
from tests.reduction.methods.golden import Case, run


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    start, tokens = arguments["image_token_start_index"], arguments["image_token_length"]
    budget = arguments["max_num_trunction"] or int(tokens * (1 - arguments["reduction_ratio"]))
    options = {"image_pivots": arguments["pivot_image_token"], "text_pivots": arguments["pivot_text_token"]}
    stage = make_stage("dart", layer=arguments["K"], keep=budget, mode="code", **options)
    outcome = run(case, [stage], start, tokens)
    assert torch.equal(outcome.kept(0, start)[0], given["retained_sorted"])
    assert stage.reducer.left(tokens, budget) == len(given["retained_sorted"])
    torch.testing.assert_close(outcome.last_hidden, given["last_hidden_state"], rtol=0, atol=1e-4)

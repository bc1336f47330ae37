from __future__ import annotations

import torch

from llava.reduction import make_stage
from tests.reduction.methods.golden import Case, run


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    start, tokens = arguments["system_token_nums"], arguments["image_token_nums"]
    assert arguments["pe_type"] == "keep"
    outcome = run(case, [make_stage("vtw", layer=arguments["k"])], start, tokens)
    torch.testing.assert_close(outcome.last_hidden, given["last_hidden_state"], rtol=0, atol=1e-4)

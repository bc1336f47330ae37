from __future__ import annotations

import torch

from llava.reduction import make_stage
from llava.reduction.apply import choose
from tests.reduction.methods.golden import Case, about


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    hidden, metric = given["hidden_states"], given["metric"]
    evidence = about(
        hidden[:, 1:], cls_attention=given["cls_attention"], keys=metric[:, None, 1:], cls_row=hidden[:, 0]
    )
    budget = arguments["dominant"] + arguments["contextual"]
    stage = make_stage("visionzip", keep=budget, contextual=arguments["contextual"], mode="code")
    (part,) = choose(stage, hidden[:, 1:], evidence, budget)
    torch.testing.assert_close(part.merged.tokens, given["output"], rtol=0, atol=1e-5)
    dominant = given["dominant_indices_with_cls"][:, 1:] - 1
    assert torch.equal(part.merged.origin[:, 1 : arguments["dominant"]], dominant.sort(dim=1).values)

from __future__ import annotations

import torch

from llava.reduction import get_method
from llava.reduction.methods.vision.tome import merge_sizes, soft_matching
from tests.reduction.methods.golden import Case


def replay(case: Case) -> None:
    if isinstance(case.said, list):
        replay_schedules(case.said)
        return
    given, arguments = case.tensors, case.arguments
    protected = int(arguments["class_token"]) + int(arguments["distill_token"])
    tokens = given["x"]
    sizes = given["size"][..., 0] if "size" in given else torch.ones(tokens.shape[:2])
    member, _ = soft_matching(given["metric"], arguments["r"], protected)
    assert torch.equal(member, given["member_of"])
    merged = get_method("tome")(mode="code").merge_in_tower(tokens, given["metric"], sizes, arguments["r"], protected)
    torch.testing.assert_close(merged.tokens, given["out_x"], rtol=0, atol=1e-5)
    torch.testing.assert_close(merged.sizes, given["out_size"][..., 0], rtol=0, atol=1e-5)


def replay_schedules(schedules: list[dict]) -> None:
    for schedule in schedules:
        match schedule["r"]:
            case int(count):
                assert merge_sizes(count, schedule["num_layers"]) == schedule["list"]
            case [int(count), float(inflect)]:
                assert merge_sizes(count, schedule["num_layers"], inflect) == schedule["list"]
            case listed:  # a list of the layers themselves, which zeros fill up
                padded = [*listed, *[0] * (schedule["num_layers"] - len(listed))]
                assert padded == schedule["list"]

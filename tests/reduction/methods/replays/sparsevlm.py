from __future__ import annotations

import torch

from llava.reduction import clusters, make_stage
from tests.reduction.methods.golden import Case, run


def replay(case: Case) -> None:
    given, arguments = case.tensors, case.arguments
    if "cluster_in" in given:
        count = arguments["cluster_num"]
        rows = given["cluster_in"]
        _, member = clusters.density_peaks(clusters.distances(rows), count, given["noise"])
        torch.testing.assert_close(clusters.means(rows, member, count), given["cluster_out"], rtol=0, atol=1e-5)
        return
    tokens, start = arguments["image_shape"], arguments["pre_prompt_length_list"][0]
    left = case.said["visual_rows_after_each_stage"]
    stages = [
        make_stage("sparsevlm", layer=layer + 1, keep=keep) for layer, keep in zip(arguments["pruning_loc"], left)
    ]
    outcome = run(case, stages, start, tokens)
    for number, record in enumerate(outcome.trace):
        order = record.onward[0]  # kept tokens, then the centres of clusters
        kept = given[f"stage{number}_kept_mask"][0].nonzero()[:, 0]
        assert torch.equal(order[: len(kept)], kept)
        assert len(order) == left[number]
    torch.testing.assert_close(outcome.last_hidden, given["last_hidden_state"], rtol=0, atol=1e-4)

"""The ledger's bookkeeping on hand-made rows."""

from __future__ import annotations

import torch

from llava.reduction import Ledger


def ledger(visual, valid=None):
    visual = torch.tensor(visual)
    valid = torch.ones_like(visual, dtype=torch.bool) if valid is None else torch.tensor(valid).bool()
    return Ledger.start(visual, valid, (valid.long().cumsum(1) - 1).clamp(min=0))


def test_the_example_of_the_docstring():
    before = ledger([[0, 0, 1, 1, 1, 1, 0, 0]])
    alive = torch.tensor([[1, 1, 0, 1, 0, 1, 1, 1]]).bool()
    index, after = before.pack(alive)
    assert index.tolist() == [[0, 1, 3, 5, 6, 7]] == after.origin.tolist() == after.position.tolist()
    assert after.visual.tolist() == [[0, 0, 1, 1, 0, 0]]
    assert after.compacted().position.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_rows_of_different_length_are_padded_on_the_left():
    before = ledger([[0, 1, 1, 0], [0, 1, 1, 0]])
    _, after = before.pack(torch.tensor([[1, 0, 0, 1], [1, 1, 0, 1]]).bool())
    assert after.valid.tolist() == [[False, True, True], [True, True, True]]
    assert after.visual.tolist() == [[0, 0, 0], [0, 1, 0]]
    assert after.row_counts().tolist() == [2, 3] and after.visual_counts().tolist() == [0, 1]
    assert after.last().tolist() == [2, 2]
    _, again = after.pack(after.valid & (after.visual == 0))
    assert again.origin.tolist() == [[0, 3], [0, 3]]  # composed, in the numbering of the beginning


def test_groups_gather_images_of_one_length():
    groups = ledger([[0, 1, 1, 0, 2, 2], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0]]).groups()
    found = {group.columns.shape[1]: (group.rows.tolist(), group.columns.tolist()) for group in groups}
    assert found == {2: ([0, 2, 0], [[1, 2], [2, 3], [4, 5]]), 3: ([1], [[0, 1, 2]])}


def test_right_padding_is_moved_to_the_left_and_labels_follow():
    before = ledger([[0, 1, 1, 0, 0]], [[1, 1, 1, 1, 0]])
    assert before.last().tolist() == [3]
    _, after = before.pack(before.valid & torch.tensor([[1, 0, 1, 1, 1]]).bool())
    assert after.labels(torch.tensor([[10, 11, 12, 13, 14]])).tolist() == [[10, 12, 13]]

"""ApET against least squares for one picture at a time, and on tokens whose answer is plain."""

from __future__ import annotations

import torch

from llava.reduction import make_stage
from llava.reduction.apply import choose
from llava.reduction.score import similarity
from llava.reduction.select import fps
from tests.reduction.methods.golden import about


def test_errors_are_those_of_least_squares():
    torch.manual_seed(0)
    tokens = torch.randn(3, 36, 16)
    reducer = make_stage("apet", keep=12, basis=5).reducer
    found = reducer.select(tokens, about(tokens), 12)
    for image in range(3):
        basis = tokens[image][fps(similarity(tokens[image : image + 1]), 5)[0]]
        errors = []
        for token in tokens[image]:
            weight = torch.linalg.lstsq(basis.T, token[:, None]).solution
            errors.append(float((token[:, None] - basis.T @ weight).square().sum()))
        plain = sorted(range(36), key=lambda j: (-errors[j], j))[:12]
        assert sorted(found[image].tolist()) == sorted(plain)


def test_the_rest_joins_what_it_is_most_like():
    torch.manual_seed(1)
    tokens = torch.randn(2, 12, 4)
    (part,) = choose(make_stage("apet", keep=3, basis=2), tokens, about(tokens), 3)
    for image in range(2):
        kept = part.kept[image].tolist()
        alike = torch.nn.functional.cosine_similarity(tokens[image][:, None], tokens[image][kept][None], dim=-1)
        nearest = [kept.index(row) if row in kept else int(alike[row].argmax()) for row in range(12)]
        for number in range(3):
            members = [row for row in range(12) if nearest[row] == number]
            torch.testing.assert_close(part.merged.tokens[image, number], tokens[image, members].mean(0))
    (part,) = choose(make_stage("apet", keep=3, basis=2, merge=False), tokens, about(tokens), 3)
    assert torch.equal(part.merged.tokens, tokens.gather(1, part.kept[..., None].expand(-1, -1, 4)))


def test_what_a_basis_mixes_exactly_goes_before_what_it_does_not():
    """Tokens of a plane, of which two are the basis, and one that leaves it a little: it alone has an error."""
    plane = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [1.0, 1.0, 0], [2.0, 1.0, 0], [1.0, 3.0, 0.5]])[None]
    found = make_stage("apet", keep=1, basis=2).reducer.select(plane, about(plane), 1)
    assert found.tolist() == [[4]]

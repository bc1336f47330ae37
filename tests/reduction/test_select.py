"""Selectors and scores against hand-made numbers and naive loops."""

from __future__ import annotations

import pytest
import torch

from llava.reduction import score, select
from llava.reduction.aggregate import mean_cells


def test_topk_breaks_ties_low():
    assert select.topk(torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0]]), 2).tolist() == [[1, 2]]


def test_head_readings_by_hand():
    """Two heads on three tokens, [.1 .2 .0] and [.3 .0 .4]: sums .3 and .7, so head 1 is the strongest."""
    attention = torch.tensor([[[0.1, 0.2, 0.0], [0.3, 0.0, 0.4]]])
    torch.testing.assert_close(score.mean_heads(attention), torch.tensor([[0.2, 0.1, 0.2]]))
    torch.testing.assert_close(score.max_head(attention), torch.tensor([[0.3, 0.0, 0.4]]))
    torch.testing.assert_close(score.weighted_heads(attention, 0.7), torch.tensor([[0.24, 0.06, 0.28]]))
    torch.testing.assert_close(score.weighted_heads(attention, 1.0), score.max_head(attention))
    torch.testing.assert_close(score.weighted_heads(attention, 1 / 2), score.mean_heads(attention))


def test_random_draws_by_picture_and_seed():
    seeds = torch.tensor([5, 6, 5])
    drawn = select.random(seeds, 0, 576, 64)
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn, select.random(seeds, 1, 576, 64))
    assert all(len(set(row.tolist())) == 64 for row in drawn)
    counts = torch.bincount(select.random(torch.arange(2000), 0, 20, 5).flatten(), minlength=20)
    assert counts.min() > 400 and counts.max() < 600  # uniform: 500 each, 4 standard deviations


def test_no_draw_is_another_pictures():
    """Nor that of another seed: picture p with seed s + 1 is not picture p + 1 with seed s, and seeds share no order."""
    draws = {}
    for picture in (0, 1, 2, 1_000_003, 2**40):
        for seed in (0, 1, 2, 1_000_003):
            drawn = tuple(select.random(torch.tensor([picture]), seed, 576, 64)[0].tolist())
            assert draws.setdefault(drawn, (picture, seed)) == (picture, seed)
    assert len(draws) == 20
    assert len({select.mixed(a, b) for a in range(40) for b in range(40)}) == 1600
    assert all(0 <= select.mixed(a) < 2**63 for a in range(100))


@pytest.mark.parametrize(("height", "width"), [(4, 9), (9, 4), (1, 12), (12, 1), (3, 7)])
def test_bands_of_a_grid_that_is_no_square_are_as_square_as_can_be(height, width):
    """16 cells of 4 x 16 are 2 x 2 each, and so they are of 16 x 4."""
    for k in range(1, height * width + 1):
        cells = select.bands(height, width, k)
        seen = [row * width + column for rows, columns in cells for row in rows for column in columns]
        assert sorted(seen) == list(range(height * width)) and len(cells) == k
    for sides in ((4, 16), (16, 4)):
        assert {(len(rows), len(columns)) for rows, columns in select.bands(*sides, 16)} == {(2, 2)}


@pytest.mark.parametrize("k", [1, 2, 7, 16, 64, 144, 192, 500, 576])
def test_bands_cut_the_grid_into_k_cells(k):
    cells = select.bands(24, 24, k)
    assert len(cells) == k
    seen = [row * 24 + column for rows, columns in cells for row in rows for column in columns]
    assert sorted(seen) == list(range(576))  # every patch in exactly one cell
    sizes = [len(rows) * len(columns) for rows, columns in cells]
    assert min(sizes) > 0
    centres = select.grid(24, 24, k).tolist()
    assert len(set(centres)) == k and centres == sorted(centres)


@pytest.mark.parametrize("side", [1, 2, 3, 8, 24])
def test_square_budgets_pool_like_avg_pool2d(side):
    tokens = torch.randn(2, 576, 5)
    picture = tokens.transpose(1, 2).unflatten(2, (24, 24))
    expected = torch.nn.functional.avg_pool2d(picture, 24 // side).flatten(2).transpose(1, 2)
    torch.testing.assert_close(mean_cells(tokens, 24, 24, side * side), expected)


def test_stride_reaches_both_ends():
    assert select.stride(576, 4).tolist() == [0, 192, 383, 575]
    assert select.stride(9, 1).tolist() == [4] and select.stride(9, 0).tolist() == []


def cosines(images: int = 3, tokens: int = 20, width: int = 6, seed: int = 0):
    return score.similarity(torch.randn(images, tokens, width, generator=torch.Generator().manual_seed(seed)))


def naive_fps(alike, k, start):
    picked = [start]
    while len(picked) < k:
        left = [index for index in range(len(alike)) if index not in picked]
        picked.append(min(left, key=lambda index: (max(float(alike[index, other]) for other in picked), index)))
    return picked


@pytest.mark.parametrize("start", [None, 4])
def test_fps_equals_a_naive_loop(start):
    alike = cosines()
    first = alike.sum(-1).argmax(1).tolist() if start is None else [start] * 3
    assert select.fps(alike, 9, start).tolist() == [naive_fps(one, 9, at) for one, at in zip(alike, first)]


def test_fps_never_picks_twice_among_equal_tokens():
    alike = score.similarity(torch.ones(1, 5, 3))
    assert select.fps(alike, 5).tolist() == [[0, 1, 2, 3, 4]]


def test_connectivity_by_hand():
    """Degrees 1 + .9 + 0 = 1.9, .9 + 1 + .5 = 2.4, 0 + .5 + 1 = 1.5."""
    alike = torch.tensor([[[1.0, 0.9, 0.0], [0.9, 1.0, 0.5], [0.0, 0.5, 1.0]]])
    assert select.connectivity(alike, 2).tolist() == [[1, 0]]


def test_medoids_move_to_the_heart_of_each_cluster():
    """Two tight groups at right angles, the larger first in degree: both seeds fall into it, one medoid moves out."""
    generator = torch.Generator().manual_seed(1)
    groups = torch.tensor([[1.0, 0.0, 0.0]] * 8 + [[0.0, 1.0, 0.0]] * 5)
    tokens = (groups + 0.1 * torch.randn(13, 3, generator=generator))[None]
    alike = score.similarity(tokens)
    assert (select.connectivity(alike, 2) < 8).all()
    centres = select.medoids(alike, 2)[0].tolist()
    assert sorted(centre < 8 for centre in centres) == [False, True]
    for centre, members in ((min(centres), range(8)), (max(centres), range(8, 13))):
        within = alike[0][members][:, members].sum(1)
        assert centre == members[int(within.argmax())]


def test_medoids_stay_distinct_among_duplicates():
    tokens = torch.randn(1, 4, 5).repeat(1, 6, 1)
    centres = select.medoids(score.similarity(tokens), 10)[0]
    assert len(centres.unique()) == 10


def naive_dpp(kernel, k):
    picked = []
    for _ in range(k):
        left = [index for index in range(len(kernel)) if index not in picked]
        picked.append(max(left, key=lambda index: float(torch.det(kernel[[*picked, index]][:, [*picked, index]]))))
    return picked


@pytest.mark.parametrize("weighted", [False, True])
def test_dpp_equals_the_largest_determinant_step_by_step(weighted):
    alike = cosines(width=12).double()
    quality = torch.rand(3, 20, generator=torch.Generator().manual_seed(2)).double() + 0.2 if weighted else None
    kernel = alike if quality is None else quality[:, :, None] * alike * quality[:, None]
    assert select.dpp(alike, 6, quality).tolist() == [naive_dpp(one, 6) for one in kernel]


@pytest.mark.parametrize("k", [5, 6, 9, 20])
def test_dpp_beyond_the_rank_takes_the_lowest_that_are_left(k):
    """Features of width 5 span five dimensions: what the kernel shows beyond is rounding, and nothing is gained."""
    alike = cosines(width=5)
    picked = select.dpp(alike, k)
    for row in picked:
        first, rest = row[:5].tolist(), row[5:].tolist()
        assert rest == [index for index in range(20) if index not in first][: k - 5]
    noisy = alike + 3e-7 * torch.randn(alike.shape, generator=torch.Generator().manual_seed(1))
    noisy.diagonal(dim1=1, dim2=2).fill_(1)
    assert torch.equal(select.dpp(noisy, k), picked)


def test_medoids_move_three_times():
    """A chain on which every round moves a centre: two rounds end elsewhere than three."""
    for seed in range(200):
        alike = cosines(images=1, tokens=30, width=4, seed=seed)
        ends = [select.medoids(alike, 5, rounds).tolist() for rounds in (2, 3)]
        if ends[0] != ends[1]:
            assert select.medoids(alike, 5).tolist() == ends[1]
            return
    raise AssertionError("no input moves in the third round")


def test_marginal_relevance_weighs_the_score_by_its_maximum():
    """Scores 1, .6, .5, .4; the second is a little like the first: (.6 - alike) / 2 against .5 / 2, whatever their sum is."""
    alike = torch.eye(4)[None].clone()
    alike[0, 0, 1] = alike[0, 1, 0] = 0.05
    wanted = torch.tensor([[1.0, 0.6, 0.5, 0.4]])
    assert select.relevant(wanted, alike, 2, 0.5).tolist() == [[0, 1]]  # .3 - .025 = .275 against .25
    assert select.relevant(10 * wanted, alike, 2, 0.5).tolist() == [[0, 1]]
    alike[0, 0, 1] = alike[0, 1, 0] = 0.08  # .3 - .04 = .26; by the sum .12 - .04 = .08 would lose to .1
    assert select.relevant(wanted, alike, 2, 0.5).tolist() == [[0, 1]]


def test_marginal_relevance_by_hand():
    """Scores 1, .9, .5; tokens 0 and 1 are equal, 2 is apart: with half the weight on diversity 2 comes second."""
    alike = torch.tensor([[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    wanted = torch.tensor([[1.0, 0.9, 0.5]])
    assert select.relevant(wanted, alike, 3, 0.5).tolist() == [[0, 2, 1]]
    assert select.relevant(wanted, alike, 3, 0.0).tolist() == [[0, 1, 2]]


def test_covering_stops_when_the_image_is_covered():
    """Picks 0, 2, 1 of three tokens, 0 and 1 equal: covered are (1 + 1 + 0) / 3, then all."""
    alike = torch.tensor([[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    picked = torch.tensor([[0, 2, 1]])
    assert select.covering(alike, picked, 0.6, 1).tolist() == [[True, False, False]]
    assert select.covering(alike, picked, 0.7, 1).tolist() == [[True, False, True]]
    assert select.covering(alike, picked, 0.6, 3).all()


@pytest.mark.parametrize(
    "choose",
    [
        select.fps,
        select.connectivity,
        select.medoids,
        select.dpp,
        lambda alike, k: select.relevant(alike[:, 0], alike, k, 0.3),
    ],
)
@pytest.mark.parametrize("k", [0, 1, 7, 20])
def test_similarity_selectors_give_k_different_tokens_alone_as_in_a_batch(choose, k):
    alike = cosines()
    together = choose(alike, k)
    assert together.shape == (3, k) and all(len(row.unique()) == k for row in together)
    assert torch.equal(choose(alike[1:2], k)[0], together[1])


@pytest.mark.parametrize(
    "choose",
    [
        select.fps,
        select.connectivity,
        select.medoids,
        select.dpp,
        lambda alike, k: select.relevant(alike.mean(1), alike, k, 0.5),
    ],
)
def test_tokens_that_are_equal_up_to_rounding_tie_exactly(choose):
    """Every token three times, each copy off by what a batch differs from a row alone: always the same are chosen."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 8, 16, generator=generator).repeat(1, 3, 1)
    chosen = set()
    for _ in range(20):
        off = tokens * (1 + 1e-7 * torch.randn(tokens.shape, generator=generator))
        chosen.add(tuple(choose(score.similarity(off), 12)[0].tolist()))
    assert len(chosen) == 1


def test_a_question_that_all_tokens_answer_alike_prefers_none():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 1, 16, generator=generator).repeat(1, 9, 1)
    tokens = tokens * (1 + 1e-7 * torch.randn(tokens.shape, generator=generator))
    words, real = torch.randn(1, 4, 16, generator=generator), torch.ones(1, 4, dtype=torch.bool)
    same = score.first_equal(score.similarity(tokens))
    assert not same.any() and not score.question_relevance(tokens, words, real, same).any()


def test_text_weights_by_hand():
    """Words give each other [[.5 0], [.25 .75]]: received .75 and .75, so both count a half."""
    to_text = torch.tensor([[[0.5, 0.0], [0.25, 0.75]]])
    to_image = torch.tensor([[[0.2, 0.3], [0.0, 0.1]]])
    torch.testing.assert_close(score.text_weighted(to_image, to_text), torch.tensor([[0.1, 0.2]]))
    one = torch.tensor([[[0.1, 0.7]]])
    torch.testing.assert_close(
        score.text_weighted(one, torch.tensor([[[0.0]]])), one[:, 0]
    )  # nothing received: uniform
    torch.testing.assert_close(score.text_weighted(one, torch.tensor([[[0.4]]])), one[:, 0])


def test_focus_is_zero_when_uniform_and_one_on_a_single_token():
    attention = torch.tensor([[0.25] * 4, [0.0, 0.7, 0.0, 0.0]])
    torch.testing.assert_close(score.focus(attention), torch.tensor([0.0, 1.0]))


def test_question_relevance_ignores_words_that_are_not_there():
    tokens, text = torch.randn(1, 5, 4), torch.randn(1, 3, 4)
    real = torch.tensor([[True, True, False]])
    whole = score.question_relevance(tokens, text[:, :2], real[:, :2])
    torch.testing.assert_close(score.question_relevance(tokens, text, real), whole)
    assert whole.min() == 0 and whole.max() == 1


def naive_facility(alike, k, rows, candidates):
    """One picture, in plain words: of those left, the one that raises the coverage most."""
    cover, picked = [0.0] * len(alike), []
    for _ in range(k):
        gains = {
            j: candidates[j] * sum(rows[i] * max(0.0, alike[i][j] - cover[i]) for i in range(len(alike)))
            for j in range(len(alike))
            if j not in picked
        }
        best = max(gains, key=lambda j: (gains[j], -j))
        picked.append(best)
        cover = [max(cover[i], alike[i][best]) for i in range(len(alike))]
    return picked


def naive_max_min(alike, k, first, weight):
    picked = [max(range(len(alike)), key=lambda i: (first[i], -i))]
    while len(picked) < k:
        far = {i: weight[i] * min(1 - alike[i][j] for j in picked) for i in range(len(alike)) if i not in picked}
        picked.append(max(far, key=lambda i: (far[i], -i)))
    return picked


@pytest.mark.parametrize("k", [1, 2, 9, 30])
def test_facility_location_and_max_min_equal_the_plain_loops(k):
    torch.manual_seed(k)
    alike = score.similarity(torch.randn(3, 30, 6))
    rows, candidates = torch.rand(3, 30), torch.rand(3, 30)
    for w, c in ((rows, candidates), (None, candidates), (rows, None), (None, None)):
        found = select.facility_location(alike, k, w, c)
        for image in range(3):
            plain = naive_facility(
                alike[image].double().tolist(),
                k,
                [1.0] * 30 if w is None else w[image].double().tolist(),
                [1.0] * 30 if c is None else c[image].double().tolist(),
            )
            assert found[image].tolist() == plain
    first = select.isolation(alike)
    for image in range(3):
        found = select.max_min(alike, k, first, rows)[image].tolist()
        assert found == naive_max_min(alike[image].tolist(), k, first[image].tolist(), rows[image].tolist())
        assert select.max_min(alike, k, first)[image].tolist() == naive_max_min(
            alike[image].tolist(), k, first[image].tolist(), [1.0] * 30
        )


def test_equal_tokens_are_taken_from_the_lowest_and_never_twice():
    tokens = torch.eye(4)[[0, 0, 1, 1, 2, 2]][None]
    alike = score.similarity(tokens)
    assert select.facility_location(alike, 6).tolist() == [[0, 2, 4, 1, 3, 5]]
    assert select.max_min(alike, 6, select.isolation(alike)).tolist() == [[0, 2, 4, 1, 3, 5]]
    assert select.facility_location(alike, 9).shape == (1, 6)


def test_isolation_is_the_distance_to_the_nearest_other():
    alike = torch.tensor([[[1.0, 0.9, 0.1], [0.9, 1.0, 0.4], [0.1, 0.4, 1.0]]])
    torch.testing.assert_close(select.isolation(alike), torch.tensor([[0.1, 0.1, 0.6]]))


def test_coverage_can_be_sharpened_by_a_power():
    alike, candidates = torch.eye(3)[None], torch.tensor([[0.5, 0.9, 0.8]])
    assert select.facility_location(alike, 3, candidates=candidates, power=2.0).tolist() == [[1, 2, 0]]

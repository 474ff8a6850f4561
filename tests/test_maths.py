"""Quotas, shares, complexity, pairs, k-means: what their docstrings promise, on arrays."""

from __future__ import annotations

import itertools

import numpy as np
import osqp
import pytest
import scipy.sparse as sparse
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from filters.maths import kmeans, pairs, search
from filters.maths.arrays import F32, F64, I64
from filters.maths.complexity import GRAIN, d_inter, d_intra, filled, share, spread
from filters.maths.quota import floors, project, quota
from tests.pools import Array, blobs, unit

complexities = st.lists(st.floats(0, 2), min_size=1, max_size=30).map(np.array)


@st.composite
def wishes(draw: st.DrawFn) -> tuple[F64, I64, int, float]:
    """Targets, members, total, balance."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    k = draw(st.integers(1, 12))
    members = rng.integers(0, draw(st.sampled_from([3, 50, 5000])), k)
    total = draw(st.integers(0, int(members.sum())))
    target = total * rng.dirichlet(np.full(k, draw(st.sampled_from([0.1, 1.0, 20.0]))))
    return target, members, total, draw(st.sampled_from([0.0, 0.0, 0.3, 1.0]))


@given(complexities, st.floats(1e-3, 10))
def test_shares_sum_to_one_and_follow_the_order_of_complexity(complexity: F64, temperature: float) -> None:
    p = share(complexity, temperature)
    assert p.sum() == pytest.approx(1)
    assert (np.diff(p[np.argsort(complexity, kind="stable")]) >= 0).all()


@given(complexities, st.data())
def test_an_undefined_complexity_counts_as_the_mean_of_the_defined(complexity: F64, data: st.DataObject) -> None:
    hole = np.array(data.draw(st.lists(st.booleans(), min_size=len(complexity), max_size=len(complexity))))
    assume(not hole.all())
    told = np.where(hole, np.nan, complexity)
    mean = complexity[~hole].mean()
    np.testing.assert_allclose(share(told), share(np.where(hole, mean, complexity)))
    np.testing.assert_allclose(filled(told)[hole], mean)


def test_no_defined_complexity_gives_equal_shares() -> None:
    np.testing.assert_array_equal(share(np.array([np.nan, np.inf, -np.inf, np.nan])), [0.25] * 4)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        share(np.ones(3), temperature)


@settings(max_examples=300)
@given(wishes())
def test_quotas_sum_exactly_and_stay_in_their_box(wish: tuple[F64, I64, int, float]) -> None:
    target, members, total, balance = wish
    found = quota(target, members, total, balance)
    assert found.sum() == total
    assert (floors(members, total, balance) <= found).all()
    assert (found <= members).all()


@settings(max_examples=300)
@given(wishes())
def test_no_whole_numbers_lie_nearer_to_the_targets(wish: tuple[F64, I64, int, float]) -> None:
    """Handing out one by one where it costs least is optimal for a separable convex aim."""
    target, members, total, balance = wish
    best = floors(members, total, balance)
    while best.sum() < total:
        best[np.argmin(np.where(best < members, best - target, np.inf))] += 1
    found = quota(target, members, total, balance)
    assert ((found - target) ** 2).sum() == pytest.approx(((best - target) ** 2).sum(), rel=1e-9, abs=1e-6)


@settings(max_examples=60)
@given(wishes())
def test_the_projection_is_the_optimum_that_osqp_finds(wish: tuple[F64, I64, int, float]) -> None:
    target, members, total, balance = wish
    low = floors(members, total, balance)
    k = len(target)
    solver = osqp.OSQP()
    bounds = sparse.vstack([sparse.eye(k), np.ones((1, k))]).tocsc()
    solver.setup(
        sparse.eye(k).tocsc(), -target, bounds, np.append(low, total).astype(float), np.append(members, total).astype(float),
        eps_abs=1e-9, eps_rel=1e-9, max_iter=200_000, verbose=False, polishing=True,
    )  # fmt: skip
    theirs = solver.solve(raise_error=False).x
    ours = project(target, low, members, total)
    assert ours.sum() == pytest.approx(total, rel=1e-12, abs=1e-9)
    assert ((ours - target) ** 2).sum() <= ((theirs - target) ** 2).sum() * (1 + 1e-6) + 1e-4


def test_equal_remainders_fall_to_the_lower_concept() -> None:
    np.testing.assert_array_equal(quota(np.full(4, 2.5), np.full(4, 9), 10), [3, 3, 2, 2])


def test_fewer_samples_than_floors_lets_the_floor_go() -> None:
    np.testing.assert_array_equal(quota(np.array([1.5, 0.25, 0.25]), np.array([5, 5, 5]), 2), [2, 0, 0])


@given(st.integers(0, 2**32), st.integers(2, 12), st.integers(1, 30))
def test_d_inter_is_the_mean_over_the_nearest_others(seed: int, k: int, neighbors: int) -> None:
    rows: F32 = unit(np.random.default_rng(seed).normal(size=(k, 5))).astype(np.float32)
    exact = unit(rows.astype(np.float64))
    expected = [np.sort([1 - a @ b for j, b in enumerate(exact) if j != i])[:neighbors].mean() for i, a in enumerate(exact)]
    np.testing.assert_allclose(d_inter(rows, neighbors), expected, atol=1e-12)


def test_a_twin_centroid_is_a_neighbour_at_distance_0() -> None:
    rows: F32 = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(d_inter(rows, 1), [0, 0, 1], atol=1e-12)


@given(st.integers(0, 2**32), st.integers(0, 200))
def test_spread_is_the_same_in_any_order_and_any_parts(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    concept, distance = rng.integers(0, 4, n).astype(np.int32), rng.uniform(0, 2, n).astype(np.float32)
    whole = spread(concept, distance, 5)
    order, at = rng.permutation(n), n // 3
    parts = [spread(concept[rows], distance[rows], 5) for rows in (order[:at], order[at:])]
    np.testing.assert_array_equal(whole, parts[0] + parts[1])
    for j in range(4):
        mine = distance[concept == j].astype(np.float64)
        assert np.isnan(d_intra(whole)[j]) if not len(mine) else d_intra(whole)[j] == pytest.approx(mine.mean(), abs=GRAIN)


CLUSTERS = [(1,), (2,), (40, 1, 1, 16, 17), (64, 65), (300,), (3,) * 90, (1, 256, 257), (1501,), (1600, 20), (0, 5, 0)]


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from(CLUSTERS), st.sampled_from([np.float16, np.float32]))
def test_earlier_max_is_that_of_the_full_matrix_of_each_cluster(seed: int, sizes: tuple[int, ...], kind: type) -> None:
    rng = np.random.default_rng(seed)
    rows: Array = blobs(rng, sum(sizes)).astype(kind)
    order, ends = rng.permutation(len(rows)), np.cumsum([0, *sizes])
    similarity, of = pairs.earlier_max(rows, order, ends)
    exact = unit(rows.astype(np.float64))
    for start, stop in itertools.pairwise(ends):
        members = order[start:stop]
        full = np.tril(exact[members] @ exact[members].T, -1)
        best, at = similarity[start:stop], of[start:stop] - start
        np.testing.assert_allclose(best, full.max(axis=1, initial=0), atol=2e-6)
        known = np.flatnonzero(of[start:stop] >= 0)
        assert set(np.flatnonzero(best > 0)) == set(known)
        assert (at[known] < known).all()
        np.testing.assert_allclose(full[known, at[known]], best[known], atol=2e-6)


@pytest.mark.parametrize("n", [2, 16, 70, 400, 1700])
def test_of_equal_earlier_rows_the_first_is_named(n: int) -> None:
    row = blobs(np.random.default_rng(0), 1)
    similarity, of = pairs.earlier_max(np.repeat(row, n, axis=0), np.arange(n), np.array([0, n]))
    assert similarity[0] == 0
    assert of.tolist() == [-1] + [0] * (n - 1)


def test_a_cluster_has_the_same_numbers_wherever_it_lies_and_whatever_lies_beside_it() -> None:
    rng = np.random.default_rng(1)
    rows = blobs(rng, 700, width=64)
    for size in (5, 30, 40, 90, 100, 180, 300):
        alone, _ = pairs.earlier_max(rows, np.arange(size), np.array([0, size]))
        for before in (0, 1, 7, 33):
            order = np.concatenate([np.arange(size, size + 3 * before), np.arange(size), np.arange(size + 3 * before, 700)])
            ends = np.unique([*range(0, 3 * before + 1, 3), 3 * before + size, 700])
            among, _ = pairs.earlier_max(rows, order, ends)
            np.testing.assert_array_equal(among[3 * before : 3 * before + size], alone)


@pytest.mark.parametrize("k", [1, 3, 40])
def test_kmeans_gives_unit_rows_whatever_the_number_of_workers(k: int) -> None:
    points = blobs(np.random.default_rng(k), 500)
    centroids = kmeans.train(points, k, 20)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    for workers in (2, 3):
        np.testing.assert_array_equal(kmeans.train(points, k, 20, workers), centroids)


def test_kmeans_with_fewer_distinct_rows_than_clusters_ends() -> None:
    assert kmeans.train(np.ones((50, 8), np.float16), 7, 100).shape == (7, 8)


def test_equal_rows_get_equal_labels_and_products_wherever_they_lie() -> None:
    import torch

    from filters.maths.blocks import nearest

    rng = np.random.default_rng(3)
    rows = torch.from_numpy(unit(rng.normal(size=(2500, 96))).astype(np.float32))
    centroids = torch.from_numpy(unit(rng.normal(size=(1100, 96))).astype(np.float32))
    labels, products = nearest(rows, centroids)
    order = torch.from_numpy(rng.permutation(2500))
    moved = nearest(rows[order][:1700], centroids)
    assert torch.equal(labels[order][:1700], moved[0])
    assert torch.equal(products[order][:1700], moved[1])
    assert torch.equal(labels, (rows @ centroids.T).argmax(dim=1))


def two_levels(raw: Array, centroids: Array, levels: search.Levels) -> tuple[Array, Array]:
    """METHOD's cosine by the rule of the two levels, in float64, a row at a time."""
    rows, labels, best = unit(raw.astype(np.float64)), [], []
    for row in rows:
        near = levels.near[int((levels.coarse @ row).argmax())]
        products = centroids[near].astype(np.float64) @ row
        labels.append(int(near[products.argmax()]))
        best.append(products.max())
    return np.array(labels), np.array(best)


@pytest.fixture(scope="module")
def very_many() -> tuple[Array, Array, search.Levels]:
    """Rows, more than TWO_LEVELS centroids for them, and how those are searched."""
    rng = np.random.default_rng(2)
    rows = blobs(rng, search.TWO_LEVELS + 900, width=24, kinds=300, spread=0.4)
    centroids = kmeans.train(rows, search.TWO_LEVELS, 2)
    return rows, centroids, kmeans.levels(centroids)


def test_a_search_in_two_levels_finds_what_its_rule_says(very_many: tuple[Array, Array, search.Levels]) -> None:
    rows, centroids, levels = very_many
    found = kmeans.search(centroids, levels)(rows)
    labels, cosines = two_levels(rows, centroids, levels)
    np.testing.assert_allclose(found.cosines, cosines, atol=2e-6)
    assert (found.labels == labels).mean() > 0.999  # but for ties
    flat = search.Flat(centroids)(rows)
    assert (flat.cosines >= found.cosines - 2e-6).all()
    assert (flat.labels == found.labels).mean() > 0.98


def test_in_two_levels_a_row_has_the_same_numbers_whatever_lies_beside_it(very_many: tuple[Array, Array, search.Levels]) -> None:
    rows, centroids, levels = very_many
    find = kmeans.search(centroids, levels)
    whole, order = find(rows), np.random.default_rng(0).permutation(len(rows))
    for part in (order, order[:1], order[5:400], np.repeat(order[7], 70)):
        found = find(rows[part])
        np.testing.assert_array_equal(found.labels, whole.labels[part])
        np.testing.assert_array_equal(found.cosines, whole.cosines[part])


@pytest.mark.parametrize("k", [20, search.TWO_LEVELS])
def test_a_row_that_is_not_finite_or_all_zero_has_no_cosine(k: int, very_many: tuple[Array, Array, search.Levels]) -> None:
    rows, centroids = very_many[0][:40].copy(), very_many[1][:k]
    rows[3], rows[5, 2], rows[7, 0] = 0, np.inf, np.nan
    for kind in (np.float16, np.float32, np.float64):
        cosines = kmeans.search(centroids, kmeans.levels(centroids))(rows.astype(kind)).cosines
        assert np.flatnonzero(np.isnan(cosines)).tolist() == [3, 5, 7]

"""METHOD 2 to 4 in plain float64, a loop a rule: what the tests compare with. Written from the text, never from the code.

Nothing here is fast, and nothing here is imported from `filters`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
Undefined = float | None


def is_valid(row: npt.NDArray[np.generic]) -> bool:
    """An embedding that a stage can use: finite, and not zero."""
    return bool(np.isfinite(row).all() and np.any(row != 0))


def unit(row: npt.NDArray[np.generic]) -> F64:
    wide = row.astype(np.float64)
    return np.asarray(wide / math.sqrt(float(wide @ wide)))


def d_intra(labels: Sequence[int], distances: Sequence[float], k: int) -> list[Undefined]:
    """METHOD 2.4: mean distance of the concept's members."""
    found: list[Undefined] = []
    for concept in range(k):
        of_members = [distance for label, distance in zip(labels, distances, strict=True) if label == concept]
        found.append(math.fsum(of_members) / len(of_members) if of_members else None)
    return found


def d_inter(centroids: npt.NDArray[np.generic], neighbors: int) -> list[Undefined]:
    """METHOD 2.4: mean of 1 - cos over the nearest other centroids; itself left out by its index."""
    rows = [unit(row) for row in centroids]
    found: list[Undefined] = []
    for at, row in enumerate(rows):
        others = sorted(1 - float(row @ other) for index, other in enumerate(rows) if index != at)[:neighbors]
        found.append(math.fsum(others) / len(others) if others else None)
    return found


def complexity(inter: Sequence[Undefined], intra: Sequence[Undefined]) -> list[Undefined]:
    """METHOD 2.5: d_inter * d_intra; undefined ones take the mean of the defined."""
    products = [a * b if a is not None and b is not None else None for a, b in zip(inter, intra, strict=True)]
    defined = [value for value in products if value is not None]
    mean = math.fsum(defined) / len(defined) if defined else None
    return [mean if value is None else value for value in products]


def share(values: Sequence[Undefined], temperature: float) -> list[float]:
    """METHOD 2.5: softmax(C / tau); equal where no C is defined."""
    known = [0.0 if value is None else value for value in values]
    weights = [math.exp((value - max(known)) / temperature) for value in known]
    return [weight / math.fsum(weights) for weight in weights]


def box(members: Sequence[int], n: int, balance: float) -> list[int]:
    """METHOD 2.6: the floor of each quota; its cap is the concept's members."""
    least = int(balance * n / len(members)) if balance > 0 else 1
    floors = [max(0, min(least, count - 1)) for count in members]
    return [0] * len(members) if sum(floors) > n else floors


def projection(target: Sequence[float], low: Sequence[int], high: Sequence[int], n: int) -> list[float]:
    """METHOD 2.6: clip(P*N + lambda, lo, M), lambda by halving."""

    def clipped(shift: float) -> list[float]:
        return [min(max(t + shift, float(a)), float(b)) for t, a, b in zip(target, low, high, strict=True)]

    reach = max(map(abs, target)) + max(high) + 1.0
    below, above = -reach, reach
    for _ in range(200):
        middle = (below + above) / 2
        below, above = (middle, above) if math.fsum(clipped(middle)) < n else (below, middle)
    return clipped(above)


def objective(x: Sequence[float], target: Sequence[float]) -> float:
    return math.fsum((a - t) ** 2 for a, t in zip(x, target, strict=True))


def integer_optimum(target: Sequence[float], low: Sequence[int], high: Sequence[int], n: int) -> list[int]:
    """Whole numbers of least objective: one more where one more costs least, until n (a convex sum: greedy is optimal)."""
    x = list(low)
    for _ in range(n - sum(low)):
        costs = [(2 * (count - t) + 1, at) for at, (count, t, cap) in enumerate(zip(x, target, high, strict=True)) if count < cap]
        x[min(costs)[1]] += 1
    return x


def every_quota(low: Sequence[int], high: Sequence[int], n: int) -> Iterable[tuple[int, ...]]:
    """All whole numbers in the box that sum to n."""
    ranges = [range(a, b + 1) for a, b in zip(low, high, strict=True)]
    return (x for x in itertools.product(*ranges) if sum(x) == n)


def first(count: int, rows: Iterable[int], by: Callable[[int], float], uid: Callable[[int], int]) -> set[int]:
    """The `count` rows of the smallest value, of equal ones the smaller uids."""
    return set(sorted(rows, key=lambda row: (by(row), uid(row)))[:count])


def earlier_similarity(cosines: F64) -> list[float]:
    """METHOD 3: of each row the largest similarity to a row before it, never below 0. `cosines` is the full square."""
    return [max([0.0, *cosines[at, :at].tolist()]) for at in range(len(cosines))]


def datacomp_clip_score(scores: npt.NDArray[np.float32], fraction: float) -> npt.NDArray[np.bool_]:
    """METHOD 4: which rows DataComp's `clip_score` keeps, by fraction; all of them for 1."""
    place = int(len(scores) * fraction)
    if place >= len(scores):
        return np.ones(len(scores), bool)
    threshold = np.sort(scores)[::-1][place]
    return np.asarray(scores >= threshold)

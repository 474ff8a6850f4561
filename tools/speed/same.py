"""Whether the two sides of a step found the same. Each gives figures to report, and raises Differ where they must agree and do not."""

from __future__ import annotations

from typing import Any

import numpy as np

from filters.maths.arrays import F32, I64, Array
from tools.speed import made

Told = dict[str, Any]


class Differ(Exception):
    """What the two sides disagree on."""


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise Differ(what)


def equal(name: str) -> Any:
    """The arrays of this name are equal."""

    def same(ours: Told, peer: Told) -> Told:
        _check(np.array_equal(ours[name], peer[name]), f"{name} differ")
        return {f"same {name}": True}

    return same


FLOAT16 = 2e-3  # a unit row that was rounded to float16 is that much longer or shorter than 1 at most; our side divides it by its length


def labels(ours: Told, peer: Told) -> Told:
    """Up to ties: where labels differ, both are as near."""
    differ = ours["labels"] != peer["labels"]
    _check(bool((np.abs(ours["distances"] - peer["distances"]) < FLOAT16).all()), "distances differ")
    _check(differ.mean() < 1e-3, f"{differ.sum():,} labels differ")
    return {"labels that differ": int(differ.sum())}


def objective(count: int, stops: bool, width: int = made.WIDTH) -> Any:
    """Mean cosine to the nearest centroid; ours is smaller by a ten-thousandth at most. `stops`: the sides may end when they like.

    faiss 1.15 ends when its objective stands still, ours when no label changes.
    """

    def same(ours: Told, peer: Told) -> Told:
        points = made.unit(made.points(count, width))
        _check(
            stops or ours["iterations"] == peer["iterations"], f"ours ended after {ours['iterations']} of {peer['iterations']} iterations"
        )
        mine, theirs = (mean_cosine(points, side["centroids"]) for side in (ours, peer))
        _check(mine > theirs * (1 - 1e-4), f"objective {mine:.6f}, the peer's {theirs:.6f}")
        ended = {"iterations": ours["iterations"], "peer's iterations": peer["iterations"]}
        return {"objective": round(mine, 6), "peer's objective": round(theirs, 6)} | ended

    return same


def mean_cosine(points: F32, centroids: F32) -> float:
    best = [(points[at : at + 10_000] @ centroids.T).max(axis=1) for at in range(0, len(points), 10_000)]
    return float(np.concatenate(best).mean(dtype=np.float64))


def similarities(ours: Told, peer: Told) -> Told:
    """Within the rounding of a float32 product."""
    most = float(np.abs(ours["similarity"] - peer["similarity"]).max())
    _check(most < 1e-5, f"similarities differ by {most:.1e}")
    return {"similarities differ by": most}


def close(name: str, relative: float) -> Any:
    """The arrays of this name are, within so much of their largest number."""

    def same(ours: Told, peer: Told) -> Told:
        most = float(np.abs(ours[name] - peer[name]).max() / np.abs(peer[name]).max())
        _check(most < relative, f"{name} differ by {most:.1e} of the largest")
        return {f"{name} differ by": most}

    return same


def quotas(k: int) -> Any:
    """The sum is exact; OSQP's numbers, where there are any, are near before rounding."""

    def same(ours: Told, peer: Told) -> Told:
        target, _, total = made.quota_problem(k)
        _check(int(ours["quota"].sum()) == total, f"the quotas sum to {ours['quota'].sum():,}, not to {total:,}")
        if not peer:
            return {"sum exact": True}
        gain = float(np.square(peer["quota"] - target).sum() - np.square(ours["quota"] - target).sum())
        off, far = abs(float(peer["quota"].sum()) - total), float(np.abs(ours["quota"] - peer["quota"]).max())
        _check(gain > -k, "OSQP is nearer to the target by more than the rounding")
        return {"sum exact": True, "OSQP's sum is off by": round(off, 4), "largest difference": round(far, 3)}

    return same


def counts(ours: Told, peer: Told) -> Told:
    """As many stay after each stage. Who stays depends on where k-means began."""
    _check(np.array_equal(ours["left"], peer["left"]), f"{ours['left'].tolist()} stay, of the peer {peer['left'].tolist()}")
    return {"left": ours["left"].tolist(), "share of the subset in common": round(_common(ours["subset"], peer["subset"]), 3)}


def _common(mine: I64, theirs: I64) -> float:
    either: Array = np.concatenate([mine, theirs])
    return 2 - 2 * len(np.unique(either, axis=0)) / len(either)


def nothing(ours: Told, peer: Told) -> Told:
    return {}

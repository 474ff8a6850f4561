"""How complex a concept is, and the share of the kept samples it gets for that. METHOD 2.4 and 2.5.

All in float64. Similarities of centroids are taken in blocks, so memory is O(k * block), not O(k * k).
"""

from __future__ import annotations

import numpy as np

from filters.maths.arrays import F32, F64, I32, I64

# Distances are added up as integers of this unit: such a sum is the same in any order, on any number of workers, and 2^63
# holds 10^10 samples. A float32 distance above 2^-5 is a multiple of it; a smaller one moves by less than 2e-9.
GRAIN = 2.0**-28


def spread(concept: I32, distance: F32, k: int) -> I64:
    """Members of each concept and the sum of their distances; adds up over shards.

    concept   (n,) int32, 0 to k - 1
    distance  (n,) float32, 1 - cos, 0 to 2
    returns   (2, k) int64: counts, sums in units of GRAIN
    """
    grains = np.round(distance.astype(np.float64) / GRAIN)
    # bincount adds in float64, exact below 2^53: 2^24 distances of at most 2^29 grains.
    parts = range(0, len(concept), 1 << 24)
    sums = sum(
        (np.bincount(concept[at : at + (1 << 24)], grains[at : at + (1 << 24)], k).astype(np.int64) for at in parts),
        start=np.zeros(k, np.int64),
    )
    return np.stack([np.bincount(concept, minlength=k), sums])


def d_intra(counts_and_sums: I64) -> F64:
    """Mean distance of a concept's members to its centroid: (k,) float64, NaN for an empty concept. METHOD 2.4."""
    counts, sums = counts_and_sums
    with np.errstate(invalid="ignore"):
        mean: F64 = sums * GRAIN / counts
    return mean


def d_inter(centroids: F32, neighbors: int = 20) -> F64:
    """Mean distance of a centroid to the nearest other ones.

    centroids  (k, d) float32, unit rows
    neighbors  l, 1 or more; all others where there are no more than l
    returns    (k,) float64; NaN when there is no other centroid
    Source: METHOD 2.4, 20 neighbours [code]; k <= l [ours]; self left out by index, so that a twin counts as 0.
    """
    import torch

    if neighbors < 1:
        raise ValueError(f"neighbors must be at least 1, got {neighbors}")
    rows = torch.from_numpy(centroids.astype(np.float64))
    rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    k, wanted = len(rows), min(neighbors, len(rows) - 1)
    result = np.full(k, np.nan)
    for start in range(0, k if wanted else 0, 256):
        distance = 1 - rows[start : start + 256] @ rows.T
        distance[torch.arange(len(distance)), torch.arange(start, start + len(distance))] = torch.inf
        nearest = distance.topk(wanted, dim=1, largest=False).values.clamp_(min=0)
        result[start : start + 256] = nearest.mean(dim=1).numpy()
    return result


def filled(complexity: F64) -> F64:
    """Undefined values replaced by the mean of the defined ones; unchanged when none is defined. METHOD 2.5 [code]."""
    defined = np.isfinite(complexity)
    return np.where(defined, complexity, complexity[defined].mean()) if defined.any() else complexity


def share(complexity: F64, temperature: float = 0.1) -> F64:
    """Each concept's share of the kept samples: softmax(C / tau).

    complexity   (k,) float64, C = d_inter * d_intra; not finite where undefined
    temperature  tau > 0, in units of C
    returns      (k,) float64, sums to 1; an undefined C counts as the mean of the defined, none defined: equal shares
    raises       ValueError when temperature is not positive
    Source: METHOD 2.5; softmax and tau = 0.1 [paper], undefined -> mean [code].
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not np.isfinite(complexity).any():
        return np.full(len(complexity), 1 / len(complexity))
    values = filled(complexity)
    # Shift first: at tau = 1e-3 exp(C / tau) overflows. A quotient of -inf at a tiny tau is a share of 0.
    with np.errstate(over="ignore"):
        weights: F64 = np.exp((values - values.max()) / temperature)
    weights /= weights.sum()
    return weights

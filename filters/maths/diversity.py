"""How much of a pool a part of it still shows: what stands for what, and how evenly groups are met.

Arrays in, arrays out; memory is a few times that of the input.
"""

from __future__ import annotations

import numpy as np

from filters.maths.arrays import I64


def roots(parent: I64) -> I64:
    """The end of the chain that begins at each row.

    parent   (n,) int64, the row that each points to, itself at the end; no circles
    returns  (n,) int64, in log2 of the longest chain steps
    """
    while True:
        further: I64 = parent[parent]
        if np.array_equal(further, parent):
            return parent
        parent = further


def entropy(counts: I64) -> float:
    """Of the shares of the groups, in nats; exp of it is the effective number of groups. 0 where nothing is counted."""
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log(shares)).sum()) + 0.0

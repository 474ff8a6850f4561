"""Soft Cap Sampling: batches drawn from a softmax, in which each draw of a sample makes its next one less likely. METHOD 5.

A batch without replacement from softmax(l) is the first of a race that a sample of logit l ends after E * exp(-l), E being its
exponential noise of that round: the largest l - log(E). To ask each sample in each round would take n * rounds logarithms, so the
noise lies in a tree over the rounds. A node holds the least noise of the rounds below it, which is exponential as well; one of its
children, all equally likely, has this same noise, the others have it and an exponential more. A sample that cannot win by the
least noise of SPAN rounds is asked once for all of them. That changes no draw: who is asked is a matter of time alone.

Arrays in, arrays out. The noise is a function of a sample's key and of the round: order and workers change no bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from filters.maths.arrays import F32, F64, I32, I64, U8, U64
from filters.maths.uids import mixed

BITS, DEPTH = 2, 4  # a node has 4 children; rounds lie 4 levels below a root
SPAN = 1 << BITS * DEPTH
PIECE = 1 << 16  # samples at a time: fewer, and threads wait for each other
TRIED = 1 << 20  # samples that tell where a threshold lies
SLACK = 1e-9  # what logarithms may be off by, many times over
ASKED = 16  # times that one is asked for noise, for each draw, beside the once in SPAN rounds: 12 to 18 were seen

Watch = Callable[[int], None]


class Law(NamedTuple):
    """What is drawn. Source: 100,000, 0.15 [paper]; scale 2.5 [ours, after the authors' example N(0, 2.5)]."""

    total: int
    batch: int  # without replacement; no more than there are samples
    penalty: float  # taken from the logit of a sample that is drawn
    scale: float | None  # standard deviation of the logits; None: scores are logits as they are

    @property
    def rounds(self) -> int:
        return -(-self.total // self.batch)

    def size(self, first: int, last: int) -> int:
        """Draws of rounds `first` to `last`, the last excluded: the last of all may be shorter."""
        return min(last * self.batch, self.total) - first * self.batch


def draw(scores: F32, keys: U64, draws: I32, law: Law, first: int, last: int, workers: int = 1, watch: Watch = lambda count: None) -> None:
    """Add the draws of rounds `first` to `last`, the last excluded.

    scores  (n,) float32, finite     keys  (n,) uint64, another one for each sample and seed
    draws   (n,) int32, of the rounds before; changed in place
    watch   called with the draws of each round when they are made
    Ties of l - log(E) fall to the smaller key.
    """
    if law.batch == len(keys):  # everyone is drawn
        whole = max(first, min(last, law.total // law.batch))
        draws += whole - first
        watch((whole - first) * law.batch)
        first = whole
    threads = ThreadPoolExecutor(workers)
    try:
        race = Race(Runners(scores, keys, draws, *logits_of(scores, law.scale), law.penalty), threads.map)
        for number in range(first, last):
            winners = race.first(number, law.size(number, number + 1))
            draws[winners] += 1
            watch(len(winners))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # an interruption does not wait for pieces under way


def asked(law: Law, n: int) -> int:
    """About how often `draw` asks a sample for noise, in all rounds together."""
    if law.batch == n:
        return n * DEPTH * (law.total % law.batch > 0)
    return n * (2 + -(-law.rounds // SPAN)) + ASKED * law.total


def held_bytes(law: Law, n: int) -> int:
    """About what `draw` holds at most, with its arguments."""
    once = sum(min(n, int(1.5 * law.batch * (SPAN >> BITS * level))) for level in range(DEPTH + 1))
    return 16 * n + 17 * (once + min(n, int(1.5 * law.batch * (SPAN >> BITS))))


def logits_of(scores: F32, scale: float | None) -> tuple[float, float]:
    """Center and factor: a logit is (score - center) * factor. Scores that are all the same give logits of 0."""
    if scale is None:
        return 0.0, 1.0
    most = float(max(scores.max(), -scores.min()))
    mean = _sum(_parts(scores), most) / len(scores)
    deviation = math.sqrt(_sum(((part - mean) ** 2 for part in _parts(scores)), 4 * most**2) / len(scores))
    return mean, scale / deviation if deviation else 0.0


def _parts(scores: F32) -> Iterator[F64]:
    return (scores[at : at + PIECE].astype(np.float64) for at in range(0, len(scores), PIECE))


def _sum(parts: Iterable[F64], most: float) -> float:
    """Of numbers of at most `most`, as whole grains of it: the same in any order."""
    grain = 2.0 ** (math.frexp(most)[1] - 40)
    return grain * sum(int(np.round(part / grain).astype(np.int64).sum()) for part in parts)


class Runners(NamedTuple):
    """All samples."""

    scores: F32
    keys: U64
    draws: I32
    center: float
    factor: float
    penalty: float

    def logits(self, rows: I64 | slice) -> F64:
        now: F64 = (self.scores[rows].astype(np.float64) - self.center) * self.factor - self.penalty * self.draws[rows]
        return now


class Held(NamedTuple):
    """Samples that may win a round below a node."""

    rows: I64  # (m,) ascending
    least: F64  # (m,) noise of the best of these rounds
    heir: U8  # (m,) the child below which it lies


def noise(keys: U64, level: int, number: int, least: F64, heir: U8) -> tuple[F64, U8]:
    """Least noise, and heir, at the node of this level above a round; least and heir of its parent are given, 0 above a root."""
    node = number >> BITS * (DEPTH - level)
    words = mixed(keys ^ mixed(np.array([node << 8 | level], np.uint64)))
    uniform = ((words >> np.uint64(12)).view(np.int64) + 0.5) * 2.0**-52  # exact, never 0 or 1
    more = np.log(uniform) * (-1.0 / (SPAN >> BITS * level))  # the least of so many exponentials
    if level:
        more *= heir != node % (1 << BITS)
    return least + more, (words & np.uint64((1 << BITS) - 1)).astype(np.uint8)


Each = Callable[[Callable[[Held], Held], Iterable[Held]], Iterable[Held]]


class Race:
    """Finds the winners of one round after the other. `each` is like map, or does it in parallel."""

    def __init__(self, runners: Runners, each: Each) -> None:
        self._runners, self._each = runners, each
        self._threshold = math.inf
        self._held: list[list[Held]] = []  # of the nodes above the round, by level; in pieces
        self._round = -1  # whose nodes these are
        self.asked = 0  # times that a sample was

    def first(self, number: int, size: int) -> I64:
        """The winners of a round, in no order."""
        wanted = 1.4 * size + 4 * math.sqrt(size) + 16
        if not self._held or number % SPAN == 0:
            self._start(number, wanted)
        self._descend(number)
        while sum(len(piece.rows) for piece in self._held[DEPTH]) < size:
            self._start(number, wanted)
            self._descend(number)
            wanted *= 2
        return self._winners(size)

    def _winners(self, size: int) -> I64:
        rows, least, _ = _joined(self._held[DEPTH])
        time = np.log(least) - self._runners.logits(rows)
        last = np.partition(time, size - 1)[size - 1]
        sure, tied = rows[time < last], rows[time == last]
        tied = tied[np.argsort(self._runners.keys[tied])]
        return np.concatenate([sure, tied[: size - len(sure)]])

    def _start(self, number: int, wanted: float) -> None:
        """Ask everyone for the least noise of the whole span. Logits only fall: who is too far off now is so to its end."""
        self._threshold = self._likely(number, wanted)
        n = len(self._runners.keys)
        pieces = (np.arange(at, min(at + PIECE, n)) for at in range(0, n, PIECE))
        everyone = (Held(rows, np.zeros(len(rows)), np.zeros(len(rows), np.uint8)) for rows in pieces)
        self._held = [self._narrowed(everyone, 0, number)]
        self.asked += n

    def _likely(self, number: int, wanted: float) -> float:
        """The threshold that about so many pass in this round, as some of the samples tell."""
        n = len(self._runners.keys)
        some = slice(None, None, -(-n // TRIED))
        keys = self._runners.keys[some]
        place = int(wanted * len(keys) / n)
        if place >= len(keys):
            return -math.inf
        least, heir = np.zeros(len(keys)), np.zeros(len(keys), np.uint8)
        for level in range(DEPTH + 1):
            least, heir = noise(keys, level, number, least, heir)
        return float(-np.partition(np.log(least) - self._runners.logits(some), place)[place])

    def _descend(self, number: int) -> None:
        """Bring the nodes above this round up to date."""
        for level in range(1, DEPTH + 1):
            shift = BITS * (DEPTH - level)
            if len(self._held) <= level or number >> shift != self._round >> shift:
                self.asked += sum(len(piece.rows) for piece in self._held[level - 1])
                whole = _joined(self._narrowed(self._held[level - 1], level, number))
                self._held[level:] = [_pieces(whole)]
        self._round = number

    def _narrowed(self, pieces: Iterable[Held], level: int, number: int) -> list[Held]:
        return list(self._each(lambda piece: self._narrow(piece, level, number), pieces))

    def _narrow(self, held: Held, level: int, number: int) -> Held:
        """Those of a node's samples that may still win below its child."""
        rows = held.rows
        least, heir = noise(self._runners.keys[rows], level, number, held.least, held.heir)
        may = np.flatnonzero(self._runners.logits(rows) - np.log(least) >= self._threshold - SLACK)
        return Held(rows[may], least[may], heir[may])


def _joined(pieces: list[Held]) -> Held:
    rows, least, heir = zip(*pieces, strict=True)
    return Held(np.concatenate(rows), np.concatenate(least), np.concatenate(heir))


def _pieces(held: Held) -> list[Held]:
    places = (slice(at, at + PIECE) for at in range(0, max(1, len(held.rows)), PIECE))
    return [Held(held.rows[place], held.least[place], held.heir[place]) for place in places]

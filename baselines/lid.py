"""fastText's language model lid.176, asked of many captions at once.

To that model a caption is the mean of its words' vectors, and a word's vector is the sum of those of its letter groups. So each word
is worked out once and remembered. What is found is what fastText finds: where two languages are so close that the order of
additions could decide, and for lines that fastText reads in a way of its own, fastText itself is asked.

The file: https://fasttext.cc, its `FastText::saveModel`. Of a model of another kind `read` gives None.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np

from filters.maths.arrays import F32, I64, U8, Array, Bool

MAGIC = (793712314).to_bytes(4, "little")  # how a file begins
HEAD = np.dtype([("magic", "S4"), ("version", "<i4"), ("args", "<i4", 12), ("t", "<f8")])
DIM, WORD_NGRAMS, LOSS, KIND, BUCKET, SHORTEST, LONGEST = 0, 5, 6, 7, 8, 9, 10  # places among args
HIERARCHICAL, SUPERVISED = 1, 3
OFFSET, PRIME = np.uint32(2166136261), np.uint32(16777619)  # of the hash FNV-1a
CODES = 256  # of a product quantizer, for each part of a vector
LABEL = b"__label__"
END, STOP = b"</s>", b"\0"  # of a line: as the model knows it, and here among words
MARKS = (LABEL.decode(), END.decode())
NONE = np.zeros(0, bool)
CLOSE = 1e-3  # of two log-probabilities: far more than the order of additions can change
WORDS = 1 << 18  # that are remembered
LINES = 4096  # at a time
BLOCK = 256  # of them whose labels are all compared
HALF = float(np.log(0.5))  # a label of more is the likeliest


class Model(NamedTuple):
    """What of a model's file is needed."""

    words: dict[bytes, int]  # row of `vectors` of each word
    labels: list[str]
    bucket: int
    lengths: tuple[int, int]  # of letter groups, shortest and longest, in characters
    row_of: Array  # (bucket,) int32, row of `vectors` of each hash; -1: none
    vectors: F32  # (rows, dim)
    nodes: F32  # (labels - 1, dim), of the inner nodes of the tree of labels
    children: I64  # (labels - 1, 2): below 0 to labels - 1 a label, else labels + an inner node; the left is that of 1 - sigmoid


class _File:
    """Reads one thing after the other."""

    def __init__(self, path: Path) -> None:
        self.data = np.memmap(path, np.uint8, "r").view(np.ndarray)
        self.at = 0

    def take(self, kind: str | np.dtype[np.void], count: int = 1) -> Array:
        dtype = np.dtype(kind)
        values = self.data[self.at : self.at + count * dtype.itemsize].view(dtype)
        if len(values) < count:
            raise ValueError("it is cut off")
        self.at += count * dtype.itemsize
        return values

    def text(self) -> bytes:
        end = self.at + int(np.argmax(self.data[self.at : self.at + 4096] == 0))
        found = self.data[self.at : end].tobytes()
        self.at = end + 1
        return found


def read(path: Path) -> Model | None:
    """The model, unless it is of a kind that is left to fastText; raises ValueError for a file that is cut off."""
    file = _File(path)
    head = file.take(HEAD)[0]
    args = head["args"]
    if head["version"] != 12 or (args[WORD_NGRAMS], args[LOSS], args[KIND]) != (1, HIERARCHICAL, SUPERVISED) or args[LONGEST] < 1:
        return None
    size, words, labels = (int(number) for number in file.take("<i4", 3))
    kept = int(file.take("<i8", 2)[1])
    entries = [(file.text(), int(file.take("<i8")[0]), int(file.take("i1")[0])) for _ in range(size)]
    pruned = file.take("<i4", 2 * max(0, kept)).reshape(-1, 2)
    vectors = _matrix(file)
    nodes = _matrix(file)
    bucket = int(args[BUCKET])
    row_of = np.arange(bucket, dtype=np.int32) if kept < 0 else np.full(bucket, -1, np.int32)
    row_of[pruned[:, 0]] = pruned[:, 1]
    row_of[row_of >= 0] += words
    counts = [count for _, count, kind in entries if kind]
    assert len(counts) == labels, "labels come after the words"
    named = [word.removeprefix(LABEL).decode() for word, _, kind in entries if kind]
    known = {word: row for row, (word, _, kind) in enumerate(entries) if not kind}
    return Model(known, named, bucket, (int(args[SHORTEST]), int(args[LONGEST])), row_of, vectors, nodes, _tree(counts))


def _matrix(file: _File) -> F32:
    """(rows, dim) float32, of a matrix that is quantized or not."""
    if not file.take("?")[0]:
        rows, dim = (int(number) for number in file.take("<i8", 2))
        return np.array(file.take("<f4", rows * dim)).reshape(rows, dim)  # a copy: it does not lie at a multiple of 4 bytes
    lengths = bool(file.take("?")[0])
    rows, _ = (int(number) for number in file.take("<i8", 2))
    codes = file.take("u1", int(file.take("<i4")[0])).reshape(rows, -1)
    found = _decoded(file, codes)
    return found * _decoded(file, file.take("u1", rows).reshape(rows, 1)) if lengths else found


def _decoded(file: _File, codes: U8) -> F32:
    """(rows, dim) of what a product quantizer made (rows, parts) codes of."""
    dim, parts, width, last = (int(number) for number in file.take("<i4", 4))
    centroids = file.take("<f4", dim * CODES)
    pieces = []
    for part in range(parts):
        wide = last if part == parts - 1 else width
        table = centroids[part * CODES * width :][: CODES * wide].reshape(CODES, wide)
        pieces.append(table[codes[:, part]])
    return np.concatenate(pieces, axis=1)


def _tree(counts: Sequence[int]) -> I64:
    """Huffman's, of labels in the order of their counts, the largest first."""
    labels = len(counts)
    weight = [*map(float, counts), *[1e15] * (labels - 1)]
    children = np.empty((labels - 1, 2), np.int64)
    leaf, node = labels - 1, labels
    for parent in range(labels, 2 * labels - 1):
        for side in range(2):
            if leaf >= 0 and weight[leaf] < weight[node]:
                children[parent - labels, side], leaf = leaf, leaf - 1
            else:
                children[parent - labels, side], node = node, node + 1
        weight[parent] = sum(weight[child] for child in children[parent - labels])
    return children


class Asked:
    """A model that remembers words."""

    def __init__(self, model: Model) -> None:
        self.model, self._tree, self._lock = model, Tree(model), Lock()
        self._forget()

    def _forget(self, room: int = WORDS) -> None:
        self._place = {STOP: 0}
        self._vectors = np.zeros((room, self.model.vectors.shape[1] + 1), np.float32)  # the last number: how many rows were added
        if END in self.model.words:  # each line ends with it
            self._vectors[0] = np.append(self.model.vectors[self.model.words[END]], 1)

    def is_likeliest(self, label: str, lines: Sequence[str]) -> tuple[Bool, Bool]:
        """(n,) whether this is the label of a line, none of which has a line break in it, and where that is sure."""
        number = self.model.labels.index(label)
        with self._lock:
            parts = [self._is_likeliest(number, lines[at : at + LINES]) for at in range(0, len(lines), LINES)]
        return np.concatenate([NONE, *(part[0] for part in parts)]), np.concatenate([NONE, *(part[1] for part in parts)])

    def _is_likeliest(self, number: int, lines: Sequence[str]) -> tuple[Bool, Bool]:
        text = "\n".join([*lines, ""])
        # The words of all lines, each line with STOP at its end.
        places = self._places(text.encode().replace(STOP, b" ").replace(b"\n", b" " + STOP + b" ").split())
        ends = np.flatnonzero(places == 0)
        total = np.add.reduceat(np.take(self._vectors, places, axis=0), np.append(0, ends[:-1] + 1))
        hidden = (total[:, :-1] / np.maximum(total[:, -1:], 1)).astype(np.float32, copy=False)
        found, sure = self._tree.is_likeliest(hidden, number)
        if any(mark in text for mark in MARKS):  # fastText takes it for a label, or for the end of a line
            sure &= np.array([not any(mark in line for mark in MARKS) for line in lines])
        return found, sure & (total[:, -1] > 0)

    def _places(self, words: list[bytes]) -> I64:
        """(n,) where the vector of each word lies."""
        places = self._known(words)
        if len(missing := np.flatnonzero(places < 0)):
            new = {words[at] for at in missing}
            if len(self._place) + len(new) > len(self._vectors):
                self._forget(max(WORDS, 1 + len(words)))
                new, missing = set(words) - {STOP}, np.arange(len(words))
            self._learn(list(new))
            places[missing] = self._known([words[at] for at in missing])
        return places

    def _known(self, words: list[bytes]) -> I64:
        """As far as they are remembered; else -1."""
        return np.fromiter(map(self._place.get, words, repeat(-1)), np.int64, len(words))

    def _learn(self, new: list[bytes]) -> None:
        begin, end = len(self._place), len(self._place) + len(new)
        self._vectors[begin:end] = added(self.model, new)
        self._place |= zip(new, range(begin, end), strict=True)


def added(model: Model, words: Sequence[bytes]) -> F32:
    """(n, dim + 1): the sum of the rows of each word and its letter groups, and how many those are."""
    whole = np.frombuffer(b"".join(b"<" + word + b">" for word in words), np.uint8)
    sizes = np.array([len(word) + 2 for word in words])
    starts = (whole & 0xC0) != 0x80  # of characters
    first = np.flatnonzero(starts)
    word = np.repeat(np.arange(len(words)), sizes)[first]
    end = np.append(np.searchsorted(word, np.arange(1, len(words))), len(first))[word]  # of each character's word, in characters
    total = np.zeros((len(words), model.vectors.shape[1] + 1), np.float32)
    known = np.array([model.words.get(one, -1) for one in words])
    _add(total, model, np.flatnonzero(known >= 0), known[known >= 0])
    for groups, rows in _groups(model, whole, first, end, word):
        _add(total, model, groups, rows)
    return total


def _add(total: F32, model: Model, place: I64, rows: I64) -> None:
    """Rows of vectors onto places, which ascend."""
    if not len(place):
        return
    begins = np.flatnonzero(np.diff(place, prepend=-1))
    total[place[begins], :-1] += np.add.reduceat(model.vectors[rows], begins)
    total[place[begins], -1] += np.diff(np.append(begins, len(place)))


def _groups(model: Model, whole: U8, first: I64, end: I64, word: I64) -> list[tuple[I64, I64]]:
    """Of each length of letter groups, the words that have them and their rows of vectors, in the order of the letters."""
    shortest, longest = model.lengths
    bytes_ = whole.view(np.int8).astype(np.int32).view(np.uint32)  # the hash sees signed characters
    edges = np.append(first, len(whole))
    at = np.arange(len(first))
    begins = np.concatenate([[True], word[1:] != word[:-1]])
    hashed = np.full(len(first), OFFSET)
    found = []
    for length in range(1, longest + 1):
        inside = at + length <= end
        at, hashed, begins = at[inside], hashed[inside], begins[inside]
        end, word = end[inside], word[inside]
        last = at + length - 1
        size = edges[last + 1] - edges[last]
        for byte in range(int(size.max(initial=0))):
            more = np.flatnonzero(size > byte) if byte else slice(None)
            hashed[more] = (hashed[more] ^ bytes_[edges[last[more]] + byte]) * PRIME
        if length >= shortest:
            counts = ~(begins | (at + 1 == end)) if length == 1 else np.ones(len(at), bool)
            rows = model.row_of[hashed % np.uint32(model.bucket)]
            counts &= rows >= 0
            found.append((word[counts], rows[counts].astype(np.int64)))
    return found


class Tree:
    """The labels, at the leaves of a tree in which each inner node sends a vector left or right. Not for two threads at a time."""

    def __init__(self, model: Model) -> None:
        self.nodes, self.children, self.labels = model.nodes[: len(model.labels) - 1], model.children, len(model.labels)
        self._score = np.zeros((2 * self.labels - 1, BLOCK), np.float32)  # fresh arrays of this size take longer than what is done in them
        self._z, self._right = np.empty((2, self.labels - 1, BLOCK), np.float32)

    def is_likeliest(self, hidden: F32, label: int) -> tuple[Bool, Bool]:
        """(n,) whether no label is more probable than this one, and whether that is so, or not so, by more than CLOSE."""
        own = self._of_label(hidden, label)
        found, sure = own > HALF, own > HALF + CLOSE
        rest = np.flatnonzero(~sure)
        for at in range(0, len(rest), BLOCK):
            rows = rest[at : at + BLOCK]
            scores = self._of_all(hidden[rows])
            mine, scores[label] = scores[label].copy(), -np.inf
            ahead = (mine - scores.max(axis=0))[: len(rows)]
            found[rows], sure[rows] = ahead > 0, np.abs(ahead) > CLOSE
        return found, sure

    def _of_label(self, hidden: F32, label: int) -> F32:
        """(n,) log-probability of one label: that of the way down to it."""
        found, child = np.zeros(len(hidden), np.float32), label
        while child != 2 * self.labels - 2:
            parent, side = (int(place[0]) for place in np.nonzero(self.children == child))
            z = (hidden @ self.nodes[parent]) * (2 * side - 1)
            found += np.minimum(z, 0) - np.log(1 + np.exp(-np.abs(z)))
            child = self.labels + parent
        return found

    def _of_all(self, hidden: F32) -> F32:
        """(labels, BLOCK) log-probabilities of all labels; written over by the next call."""
        z, right, score = self._z, self._right, self._score
        np.matmul(self.nodes, np.pad(hidden, ((0, BLOCK - len(hidden)), (0, 0))).T, out=z)
        np.exp(np.negative(np.abs(z, out=right), out=right), out=right)
        np.log(np.add(right, 1, out=right), out=right)
        np.subtract(np.minimum(z, 0), right, out=right)  # log(sigmoid(z)), the way to the right; log(1 - sigmoid(z)) is that - z
        score[-1] = 0
        for parent in reversed(range(self.labels - 1)):
            left_child, right_child = self.children[parent]
            np.add(score[self.labels + parent], right[parent], out=score[right_child])
            np.subtract(score[right_child], z[parent], out=score[left_child])
        return score[: self.labels]

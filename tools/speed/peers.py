"""The peer of each step, written as its users write it: numpy, pandas, faiss, torch, OSQP."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from filters.maths.arrays import F32, F64, I64, Array
from tools.speed import made
from tools.speed.job import THREADS, Job, Run
from tools.speed.ours import CONCEPTS, FRACTIONS, row_sums

UIDS = np.dtype("u8,u8")


def subset(run: Run, pool: Path, out: Path, threshold: float = made.THRESHOLD) -> Job:
    """DataComp's way: a table at a time, two integers a uid, one sort at the end."""
    import pandas  # noqa: F401  before the clock starts

    def work() -> Path:
        array = np.concatenate(run(partial(uids_above, threshold), sorted(pool.glob("*.parquet"))))
        array.sort()
        np.save(out, array)
        return out

    return Job(work, lambda path: {"bytes": np.frombuffer(path.read_bytes(), np.uint8)})


def uids_above(threshold: float, path: Path) -> Array:
    import pandas as pd

    table = pd.read_parquet(path, columns=["uid", made.SCORE])
    return integers(table[table[made.SCORE] >= threshold]["uid"])


def integers(uids: Any) -> Array:
    return np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids], UIDS)


def read(run: Run, pool: Path) -> Job:
    """One member after the other, none of them kept."""
    return Job(lambda: run(loaded, npz_files(pool)), lambda _: {"sums": np.concatenate([row_sums(load(path)) for path in npz_files(pool)])})


def npz_files(pool: Path) -> list[Path]:
    return sorted(pool.glob("*.npz"))


def loaded(path: Path) -> tuple[int, ...]:
    return load(path).shape


def load(path: Path) -> Array:
    rows: Array = np.load(path)["l14_img"]
    return rows


def assign(run: Run, pool: Path, k: int, width: int = made.WIDTH) -> Job:
    import faiss

    index = faiss.IndexFlatIP(width)
    index.add(made.centroids(k, width))

    def nearest(path: Path) -> tuple[F32, I64]:
        found: tuple[F32, I64] = index.search(load(path).astype(np.float32), 1)
        return found

    def tell(found: list[tuple[F32, I64]]) -> dict[str, Any]:
        products, labels = (np.concatenate([one[at][:, 0] for one in found]) for at in range(2))
        return {"labels": labels, "distances": 1 - products}

    return Job(lambda: run(nearest, npz_files(pool)), tell)


def kmeans(count: int, k: int, iterations: int, width: int = made.WIDTH) -> Job:
    """On unit rows in float32, made before the clock starts, from the same first centroids."""
    import faiss

    points = made.unit(made.points(count, width))
    start = points[:k].copy()

    def work() -> Any:
        settings = {"spherical": True, "max_points_per_centroid": 10**9, "min_points_per_centroid": 1}
        km = faiss.Kmeans(width, k, niter=iterations, **settings)
        km.train(points, init_centroids=start)
        return km

    return Job(work, lambda km: {"centroids": np.asarray(km.centroids), "iterations": len(km.obj)})


def pairs(run: Run, sizes: I64, width: int = made.WIDTH) -> Job:
    """SemDeDup's: all products of a cluster, the upper triangle, the largest of each column."""
    import torch  # noqa: F401

    parts = made.clusters(sizes, width)
    return Job(lambda: run(full_matrix, parts), lambda found: {"similarity": np.concatenate(found)})


def full_matrix(part: Array) -> F32:
    import torch

    rows = torch.nn.functional.normalize(torch.from_numpy(part).float())
    largest: F32 = torch.triu(rows @ rows.T, diagonal=1).max(dim=0).values.numpy()
    return largest


def quota(k: int) -> Job:
    """The projection onto box and sum by OSQP; it leaves real numbers."""
    import osqp  # noqa: F401
    import scipy.sparse  # noqa: F401

    target, members, total = made.quota_problem(k)
    return Job(lambda: osqp_projection(target, members, total), lambda x: {"quota": x})


def osqp_projection(target: F64, members: I64, total: int) -> F64:
    import osqp
    import scipy.sparse as sparse

    k = len(target)
    bounds = sparse.vstack([sparse.eye(k), np.ones((1, k))]).tocsc()
    low, high = np.append(np.minimum(1, members), total).astype(float), np.append(members, total).astype(float)
    solver = osqp.OSQP()
    solver.setup(sparse.eye(k).tocsc(), -target, bounds, low, high, verbose=False)
    return np.asarray(solver.solve(raise_error=True).x)


def cut(n: int, groups: int) -> Job:
    values, group, uids, quotas = made.cut_problem(n, groups)

    def work() -> Array:
        order = np.lexsort((uids[:, 1], uids[:, 0], -values, group))
        ranked = group[order]
        rank = np.arange(len(order)) - np.searchsorted(ranked, ranked)
        keep = np.zeros(len(order), bool)
        keep[order[rank < quotas[ranked]]] = True
        return keep

    return Job(work, lambda kept: {"kept": kept})


def negcliploss(run: Run, size: int, width: int = made.WIDTH) -> Job:
    """The whole matrix of a batch, and the exponential of each of its numbers."""
    import torch  # noqa: F401

    batches = made.matched(size, THREADS, width)
    return Job(lambda: run(contrast, batches), lambda found: {"scores": np.concatenate(found)})


def contrast(batch: tuple[Array, Array], tau: float = 0.01) -> F32:
    import torch

    images, texts = (torch.nn.functional.normalize(torch.from_numpy(rows).float()) for rows in batch)
    cosines = images @ texts.T
    weights = torch.exp(cosines / tau)
    found: F32 = (cosines.diagonal() - tau / 2 * (torch.log(weights.sum(dim=1)) + torch.log(weights.sum(dim=0)))).numpy()
    return found


def normsim(run: Run, rows: int, targets: int, p: str, width: int = made.WIDTH) -> Job:
    """The norm of each row of all cosines."""
    import torch  # noqa: F401

    those, parts = made.centroids(targets, width), np.array_split(made.embeddings(np.random.default_rng(8), rows, width), THREADS)
    return Job(lambda: run(partial(norms, those, float(p)), parts), lambda found: {"norms": np.concatenate(found)})


def norms(targets: F32, p: float, rows: Array) -> F32:
    import torch

    cosines = torch.nn.functional.normalize(torch.from_numpy(rows).float()) @ torch.from_numpy(targets).T
    found: F32 = torch.norm(cosines, p=p, dim=1).numpy()
    return found


# -- captions, as DataComp's baselines have them: a function that pandas applies to one after the other


def language(count: int) -> Job:
    import fasttext
    import pandas as pd

    texts, model = pd.Series(made.captions(count)), fasttext.load_model(str(made.lid_model()))

    def english(text: str) -> bool:
        return bool(model.predict(text.replace("\n", " "))[0][0] == "__label__en")

    return Job(lambda: texts.apply(english), lambda found: {"english": found.to_numpy()})


def words(count: int, folder: Path) -> Job:
    """With a set of synsets, not DataComp's list of them: to go through that takes ten times as long as all the rest."""
    import nltk
    import pandas as pd
    from nltk.corpus import wordnet

    root, listed = made.wordnet(folder)
    nltk.data.path.insert(0, str(root))
    texts, offsets = pd.Series(made.captions(count)), {int(line[1:]) for line in listed.read_text().split()}
    wordnet.synsets("dog")

    def names_something(text: str) -> bool:
        return any(synsets[0].offset() in offsets for synsets in map(wordnet.synsets, text.split()) if synsets)

    return Job(lambda: texts.apply(names_something), lambda found: {"found": found.to_numpy()})


# -- the whole method, everything in memory


def whole(pool: Path, out: Path, concepts: int = CONCEPTS) -> Job:
    import faiss  # noqa: F401
    import osqp  # noqa: F401
    import pandas as pd
    import scipy.sparse  # noqa: F401
    import torch  # noqa: F401

    dedup, score, final = FRACTIONS

    def work() -> list[int]:
        rows = np.concatenate([load(path).astype(np.float32) for path in npz_files(pool)])
        table = pd.concat([pd.read_parquet(path, columns=["uid", made.SCORE]) for path in sorted(pool.glob("*.parquet"))])
        kept = np.argsort(largest_in_cluster(rows), kind="stable")[: int(dedup * len(rows))]
        left = [len(kept)]
        kept = kept[np.argsort(-table[made.SCORE].to_numpy()[kept], kind="stable")[: int(score * len(kept))]]
        left.append(len(kept))
        chosen = kept[densest(rows[kept], concepts, int(final * len(rows)))]
        array = integers(table["uid"].to_numpy()[chosen])
        array.sort()
        np.save(out, array)
        return [*left, len(array)]

    return Job(work, lambda left: {"left": np.array(left), "subset": np.load(out).view(np.uint64).reshape(-1, 2)})


def trained(rows: F32, k: int, iterations: int, points: int) -> tuple[I64, F32, F32]:
    """Labels, distances, centroids."""
    import faiss

    km = faiss.Kmeans(rows.shape[1], k, niter=iterations, seed=1234, spherical=True, max_points_per_centroid=points)
    km.train(rows)
    product, label = km.index.search(rows, 1)
    return label[:, 0], 1 - product[:, 0], np.asarray(km.centroids)


def largest_in_cluster(rows: F32) -> F32:
    """SemDeDup: the full matrix of each cluster."""
    import torch

    label, distance, _ = trained(rows, round((0.75 * len(rows)) ** 0.5), 20, 64)
    similarity = np.zeros(len(rows), np.float32)
    order = np.lexsort((-distance, label))
    for own in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
        part = torch.from_numpy(rows[own])
        similarity[own] = torch.triu(part @ part.T, diagonal=1).max(dim=0).values.numpy()
    return similarity


def densest(rows: F32, concepts: int, size: int) -> I64:
    """Density-Based Pruning: places of the rows that stay."""
    label, distance, centres = trained(rows, concepts, 100, 256)
    inter = np.sort(1 - centres @ centres.T, axis=1)[:, 1:21].mean(axis=1)
    members = np.bincount(label, minlength=concepts)
    intra = np.bincount(label, distance, concepts) / np.maximum(members, 1)
    share = np.exp((inter * intra - (inter * intra).max()) / 0.1)
    quotas = whole_numbers(osqp_projection(share / share.sum() * size, members, size), members, size)
    order = np.lexsort((-distance, label))
    ranked = label[order]
    return np.asarray(order[np.arange(len(order)) - np.searchsorted(ranked, ranked) < quotas[ranked]])


def whole_numbers(x: F64, members: I64, total: int) -> I64:
    """Rounded down, the rest to the largest remainders."""
    quotas = np.minimum(np.floor(np.maximum(x, 0)), members).astype(np.int64)
    while (missing := total - int(quotas.sum())) > 0:
        quotas[np.argsort(np.where(quotas < members, quotas - x, np.inf))[:missing]] += 1
        quotas = np.minimum(quotas, members)
    return quotas

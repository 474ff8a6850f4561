"""Runs tasks: on threads, or on spawned processes; results come back in the order of the jobs.

Each worker computes on one thread: numpy, BLAS and OpenMP pools of their own would only spin against each other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

TRIES = 3  # of a job whose worker process died


class Stopped(Exception):
    """Another job failed, or the run was interrupted."""


class WorkerDied(Exception):
    """A worker process ended without an answer, for instance for want of memory."""


class Stop:
    """Tells the tasks of this process to end; carried into another process it is never set: those are ended from outside."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __reduce__(self) -> tuple[type[Stop], tuple[()]]:
        return Stop, ()

    def set(self) -> None:
        self._event.set()

    def check(self) -> None:
        if self._event.is_set():
            raise Stopped


class Engine:
    """A pool of workers; `with` closes it."""

    def __init__(self, kind: str, workers: int) -> None:
        self.kind, self.workers = kind, workers
        self.stop = Stop()
        self._others = {child.pid for child in multiprocessing.active_children()}
        self._executor = _threads(workers) if kind == "threads" else _processes(workers)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *failure: object) -> None:
        """Stop what still runs. After an interruption nothing is waited for: what is half done is found and redone."""
        self.stop.set()
        interrupted = kind is not None and not issubclass(kind, Exception)
        if interrupted:
            self._kill()
        self._executor.shutdown(wait=not interrupted or self.kind == "processes", cancel_futures=True)

    def _kill(self) -> None:
        """End the worker processes at once."""
        for child in multiprocessing.active_children():
            if child.pid not in self._others:
                child.kill()

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """function(job) of each job, in order; no more jobs are in flight than keep the workers busy.

        raises  WorkerDied for a job that TRIES worker processes did not survive
        """
        flight: deque[tuple[Job, Future[Result]]] = deque()
        try:
            for job in jobs:
                flight.append((job, self._send(function, job)))
                if len(flight) >= 2 * self.workers:
                    yield self._first(function, flight)
            while flight:
                yield self._first(function, flight)
        finally:
            for _, future in flight:
                future.cancel()

    def _send(self, function: Callable[[Job], Result], job: Job) -> Future[Result]:
        with _interrupts_blocked():
            try:
                return self._executor.submit(function, job)
            except BrokenProcessPool:
                self._executor = _processes(self.workers)
                return self._executor.submit(function, job)

    def _first(self, function: Callable[[Job], Result], flight: deque[tuple[Job, Future[Result]]]) -> Result:
        """The result of the job sent first. A worker that dies takes all jobs in flight along: each is sent again when it is first,
        alone, so that the one that kills its worker is found out."""
        job, future = flight.popleft()
        for _ in range(TRIES):
            try:
                return future.result()
            except BrokenProcessPool:
                future = self._send(function, job)
        future.cancel()
        raise WorkerDied(f"{job}: {TRIES} worker processes died at it, for want of memory perhaps; try fewer --num_workers")


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Worker processes begin here, and inherit this: Ctrl-C reaches the whole group, but the parent alone decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Arithmetic libraries on one thread, for as long as the block lasts."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


def _threads(workers: int) -> Executor:
    return ThreadPoolExecutor(workers, thread_name_prefix="densprune")


def _processes(workers: int) -> Executor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_process, initargs=(os.getpid(),))


def _begin_process(parent: int) -> None:
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(limits=1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A killed parent cannot tell its workers to stop."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)

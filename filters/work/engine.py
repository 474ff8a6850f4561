"""Runs tasks: on threads, or on spawned processes; results come back in the order of the jobs.

Each worker computes on one thread: numpy, BLAS and OpenMP pools of their own would only spin against each other.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

from filters.work import foreign

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


class Promise(Protocol):
    """A job that was sent."""

    def result(self) -> Any: ...
    def cancel(self) -> object: ...


class Engine:
    """Some workers; `with` sends them home."""

    def __init__(self, kind: str, workers: int) -> None:
        self.kind, self.workers = kind, workers
        self.stop = Stop()
        self._team: Threads | Processes = Threads(workers) if kind == "threads" else Processes(workers)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *failure: object) -> None:
        """Stop what still runs. After an interruption nothing is waited for: what is half done is found and redone."""
        self.stop.set()
        self._team.close(interrupted=kind is not None and not issubclass(kind, Exception))

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """function(job) of each job, in order; no more jobs are in flight than keep the workers busy.

        raises  WorkerDied for a job that TRIES worker processes did not survive
        """
        flight: deque[Promise] = deque()
        try:
            for job in jobs:
                flight.append(self._team.send(function, job))
                if len(flight) >= 2 * self.workers:
                    yield flight.popleft().result()
            while flight:
                yield flight.popleft().result()
        finally:
            for promise in flight:
                promise.cancel()


class Threads:
    """Workers that are threads of this process."""

    def __init__(self, workers: int) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="densprune")

    def send(self, function: Callable[[Any], Any], job: Any) -> Promise:
        return self._executor.submit(function, job)

    def close(self, interrupted: bool) -> None:
        self._executor.shutdown(wait=not interrupted, cancel_futures=True)


class Processes:
    """Workers that are spawned processes, each at the end of a pipe of its own.

    A worker may be killed at any moment, also in the middle of an answer: its pipe then ends, and nobody else's. (A pool of
    `concurrent.futures` shares one pipe, and waits for the rest of the answer for ever.) A worker gets a job when it waits for one,
    so neither side ever waits to write. A job whose worker died is done again alone: then the one that needs the memory has it.
    """

    def __init__(self, workers: int) -> None:
        self._limit = workers
        self._workers: list[Worker] = []
        self._waiting: deque[Sent] = deque()
        self._again: deque[Sent] = deque()

    def send(self, function: Callable[[Any], Any], job: Any) -> Promise:
        sent = Sent(self, function, job)
        self._waiting.append(sent)
        self._hand_out()
        return sent

    def drop(self, sent: Sent) -> None:
        """Not to be begun any more."""
        for line in (self._waiting, self._again):
            if sent in line:
                line.remove(sent)

    def step(self) -> None:
        """Wait for an answer, or a death."""
        busy = {worker.pipe: worker for worker in self._workers if worker.at}
        for pipe in wait(list(busy)):
            self._heed(busy[pipe])  # type: ignore[index] # what is waited for comes back
        self._hand_out()

    def _heed(self, worker: Worker) -> None:
        sent, worker.at = worker.at, None
        assert sent is not None, "only busy workers are listened to"
        try:
            sent.answer = worker.pipe.recv()
        except (EOFError, OSError):
            self._lost(worker, sent)

    def _lost(self, worker: Worker, sent: Sent) -> None:
        self._workers.remove(worker)
        worker.kill()
        sent.deaths += 1
        if sent.deaths < TRIES:
            self._again.append(sent)
        else:
            what = f"{sent.job}: {TRIES} worker processes died at it, for want of memory perhaps; try fewer --num_workers"
            sent.answer = (False, WorkerDied(what))

    def _hand_out(self) -> None:
        while (line := self._next_line()) and (worker := self._free()):
            sent = worker.at = line.popleft()
            try:
                worker.pipe.send((sent.function, sent.job))
            except OSError:
                worker.at = None
                self._lost(worker, sent)

    def _next_line(self) -> deque[Sent] | None:
        """From where the next job is taken, if one may begin now."""
        busy = [worker.at for worker in self._workers if worker.at]
        if self._again or any(sent.deaths for sent in busy):
            return None if busy else self._again
        return self._waiting or None

    def _free(self) -> Worker | None:
        for worker in self._workers:
            if worker.at is None:
                return worker
        if len(self._workers) == self._limit:
            return None
        with _undisturbed():
            self._workers.append(Worker())
        return self._workers[-1]

    def close(self, interrupted: bool) -> None:
        for worker in self._workers:
            worker.kill() if interrupted else worker.pipe.close()
        for worker in self._workers:
            worker.process.join()


class Sent:
    """A job, and what came of it."""

    def __init__(self, team: Processes, function: Callable[[Any], Any], job: Any) -> None:
        self._team, self.function, self.job = team, function, job
        self.deaths = 0
        self.answer: tuple[bool, Any] | None = None  # whether it went well; the result, or the error

    def result(self) -> Any:
        while self.answer is None:
            self._team.step()
        well, value = self.answer
        if not well:
            raise value
        return value

    def cancel(self) -> None:
        self._team.drop(self)


class Worker:
    """A process that answers jobs."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, its = context.Pipe()
        self.at: Sent | None = None
        self.process = context.Process(target=_answer, args=(its, foreign.loaded()), daemon=True)
        self.process.start()
        its.close()  # or its death would not end the pipe

    def kill(self) -> None:
        self.process.kill()
        self.pipe.close()
        self.process.join()


def _answer(pipe: Connection, files: foreign.Files) -> None:
    """What a worker process does: until its pipe ends, or the process that began it."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(limits=1)
    sys.meta_path.append(files)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, ConnectionError):  # reset: it was closed before it had read the last answer
        while True:
            pipe.send(_answered(pipe.recv_bytes()))


def _answered(message: bytes) -> tuple[bool, Any]:
    try:
        function, job = pickle.loads(message)
        return True, function(job)
    except Exception as error:  # noqa: BLE001 - it is raised again where the answer is asked for
        error.add_note(traceback.format_exc())
        return False, error


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Worker processes begin here. They inherit that SIGINT is blocked: Ctrl-C reaches the whole group, but the parent alone decides.
    One that has half begun would be lost to us: a signal that arrives meanwhile is heeded when it has."""
    resource_tracker.ensure_running()  # the first to begin by itself, and it would unblock
    came: list[int] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    alone = threading.current_thread() is not threading.main_thread()  # only the main thread hears signals
    handlers = {} if alone else {number: signal.signal(number, lambda n, _: came.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for late in came[:1]:
            signal.raise_signal(late)


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


def _end_with_parent() -> None:
    """A parent that was killed cannot tell its workers to stop; one that outlived it would write into the next run's folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker process was begun by another"
    parent.join()
    os._exit(1)

"""Many things at a time that wait for the Hub, and how far they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import TypeVar

from filters.command import Quiet
from filters.pool.store import NOTICED, Abandoned
from filters.work.plan import lasting, sized

Item = TypeVar("Item")
Result = TypeVar("Result")


class Fetching:
    """Bytes that come, told now and then; called with 0 while none do. Ends every thread when one has failed."""

    def __init__(self, console: Quiet, name: str, size: int = 0) -> None:
        self._console, self._name, self._size = console, name, size
        self._lock, self._began = threading.Lock(), time.monotonic()
        self.came = 0
        self.over = threading.Event()

    def __call__(self, size: int) -> None:
        if self.over.is_set():
            raise Abandoned
        with self._lock:
            self.came += size
        self._console.tell(self._line)

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.came / max(1e-9, time.monotonic() - self._began)

    def _line(self) -> str:
        if not self._size:
            return self._name
        left = f"  {lasting(max(0, self._size - self.came) / self.rate)} left" if self.came else ""
        return f"{self._name}  {sized(self.came)} of {sized(self._size)}  {sized(self.rate)}/s{left}"


def together(task: Callable[[Item], Result], items: Sequence[Item], workers: int, fetching: Fetching) -> Iterator[Result]:
    """task(item) of each, as they end. After an interruption nothing is waited for."""
    threads = ThreadPoolExecutor(workers)
    ended = SimpleQueue[Future[Result]]()
    try:
        for item in items:
            threads.submit(copy_context().run, task, item).add_done_callback(ended.put)
        for _ in items:
            yield _next(ended, fetching).result()
    except BaseException:
        fetching.over.set()
        raise
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _next(ended: SimpleQueue[Future[Result]], fetching: Fetching) -> Future[Result]:
    while True:
        try:
            return ended.get(timeout=NOTICED)
        except Empty:
            fetching(0)

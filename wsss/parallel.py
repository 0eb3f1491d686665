"""A function over many items in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from wsss.errors import InputError
from wsss.progress import track

T = TypeVar("T")
R = TypeVar("R")

_WAITING_FOR_EACH_WORKER = 4
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def map_parallel(function: Callable[[T], R], items: Iterable[T], *, workers: int, description: str) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in the order of the items, with progress on the console.

    With `workers` <= 1 everything runs in this process. Otherwise `function` (defined at the top of a module, or a
    ``functools.partial`` of such), items and results travel between processes, so they must pickle and should be small:
    let the function write its file and return a number. A few items for each worker wait at a time, however many
    there are.

    The first exception of a worker is raised here with its type (InputError, OSError of a full disk) and ends the pool,
    as does leaving the loop or Ctrl-C; items that are running are finished, no new one is begun. A worker that was
    killed is an InputError.
    """
    work = items if hasattr(items, "__len__") else list(items)
    count = len(work)  # type: ignore[arg-type]
    workers = min(workers, count)
    results = map(function, work) if workers <= 1 else _map_in_pool(function, work, workers)
    yield from track(results, description, total=count)


def _map_in_pool(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    # Not "fork": a forked copy of a process whose OpenMP, OpenCV or CUDA threads run can hang. The fork server is a
    # fresh process without such threads, and starts a worker faster than "spawn" does.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    waiting: deque[Future[R]] = deque()
    queue = iter(items)
    try:
        for item in islice(queue, workers * _WAITING_FOR_EACH_WORKER):
            waiting.append(pool.submit(function, item))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(queue, 1))
            yield result
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed (out of memory?): run the same command again, or with fewer `workers`"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """One thread for each worker; Ctrl-C is the parent's business; no worker outlives its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for variable in _THREAD_VARIABLES:  # for libraries that this process loads from now on
        os.environ[variable] = "1"
    import cv2
    from threadpoolctl import threadpool_limits

    cv2.setNumThreads(1)
    threadpool_limits(1)  # for those that are loaded
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # returns when the parent is gone, also when it was killed
        os._exit(1)

"""Several processes give what one gives, and fail as one fails."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from wsss.errors import InputError
from wsss.parallel import map_parallel


def square(number: int, plus: int = 0) -> int:
    return number * number + plus


def touch_then_fail(number: int, folder: Path) -> int:
    (folder / str(number)).touch()
    if number == 3:
        raise InputError("image 3: broken")
    time.sleep(0.02)
    return number


def full_disk(number: int) -> int:
    raise OSError(errno.ENOSPC, "No space left on device", f"{number}.npz")


def killed(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


class Counted:
    """Items that know how many were taken."""

    taken = 0

    def __len__(self) -> int:
        return 200

    def __iter__(self) -> Iterator[int]:
        for number in range(200):
            self.taken += 1
            yield number


@pytest.mark.parametrize("workers", [0, 1, 2, 9])
def test_results_in_the_order_of_the_items(workers: int) -> None:
    function = partial(square, plus=1)
    assert list(map_parallel(function, range(40), workers=workers, description="")) == [n * n + 1 for n in range(40)]
    assert list(map_parallel(function, iter([]), workers=workers, description="")) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_exception_surfaces_and_the_rest_is_not_begun(tmp_path: Path, workers: int) -> None:
    results = []
    with pytest.raises(InputError, match=r"^image 3: broken$"):
        for number in map_parallel(
            partial(touch_then_fail, folder=tmp_path), range(500), workers=workers, description=""
        ):
            results.append(number)
    assert results == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) < 30  # bounded submission


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_keeps_its_type(workers: int) -> None:
    with pytest.raises(OSError) as caught:
        list(map_parallel(full_disk, range(4), workers=workers, description=""))
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == "0.npz"


def test_killed_worker_is_one_clear_line() -> None:
    with pytest.raises(InputError, match=r"a worker process was killed .*fewer `workers`"):
        list(map_parallel(killed, range(8), workers=2, description=""))


def test_leaving_the_loop_ends_the_pool(tmp_path: Path) -> None:
    results = map_parallel(partial(touch_then_fail, folder=tmp_path), range(4, 500), workers=2, description="")
    assert next(results) == 4
    results.close()
    begun = len(list(tmp_path.iterdir()))
    time.sleep(0.2)
    assert len(list(tmp_path.iterdir())) == begun < 30


def test_few_items_wait_at_a_time() -> None:
    items = Counted()
    results = map_parallel(square, items, workers=2, description="")
    assert next(results) == 0 and items.taken < 20
    assert len(list(results)) == 199 and items.taken == 200


THREADS = """
import os
import cv2
import numpy
from threadpoolctl import threadpool_info
from wsss.parallel import map_parallel

def threads(_):
    pools = [pool["num_threads"] for pool in threadpool_info()]
    return cv2.getNumThreads(), max(pools), os.environ["OMP_NUM_THREADS"]

if __name__ == "__main__":
    print(threads(0), *set(map_parallel(threads, range(4), workers=2, description="threads")))
"""


def test_one_thread_for_each_worker(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(THREADS)
    several = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "2")
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, env={**os.environ, **several}, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].endswith(", 2, '2') (1, 1, '1')")


STOPPED = """
import os, sys, time
from pathlib import Path
from wsss.parallel import map_parallel

def slow(number, folder=Path(sys.argv[1])):
    (folder / f"{os.getpid()}.pid").touch()
    time.sleep(0.1)

if __name__ == "__main__":
    for _ in map_parallel(slow, range(1000), workers=2, description=""):
        pass
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(tmp_path: Path, stop: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(STOPPED)
    command = [sys.executable, str(script), str(tmp_path)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    # A group of its own, as a terminal gives it, which a Ctrl-C stops even if these tests run in the background.
    parent = subprocess.Popen(
        command, **pipes, start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2 or parent.poll() is not None)
    if stop == signal.SIGINT:
        os.killpg(parent.pid, stop)  # Ctrl-C reaches the workers as well
    else:
        parent.send_signal(stop)
    errors = parent.communicate(timeout=60)[1]
    workers = [int(file.stem) for file in tmp_path.glob("*.pid")]
    assert len(workers) == 2
    wait_for(lambda: not any(alive(pid) for pid in workers))
    assert not any(alive(pid) for pid in workers)
    if stop == signal.SIGINT:
        assert errors.count("Traceback") == 1  # the parent's own: workers are silent


def wait_for(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.05)

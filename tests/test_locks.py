"""Who writes a stage holds it: the second process is told, the dead hold nothing, shards share."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
from small_run import make_data

from vitseg import cli
from wsss.console import run
from wsss.data import Sample, load_dataset
from wsss.errors import InputError
from wsss.maps import SeedCounts, run_seeds
from wsss.processes import take_shard
from wsss.store import Seed, Stage, read_json, write_seed
from wsss.store import locks as module
from wsss.store.locks import holders, is_held, lock_path, writing

HOLD = """
import sys, time
from pathlib import Path
from wsss.store.locks import writing
with writing(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(folder: Path, how: str = "alone") -> Iterator[subprocess.Popen]:
    """Another process that holds a stage."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder), how], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def stage(folder: Path, lr: float, shared: bool = False):
    return Stage.writing(folder, shared=shared, kind="seeds", config={"lr": lr}, class_names=("cat",), suffix=".npz")


def test_the_second_process_is_told_who_holds_it_and_the_dead_hold_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run/seeds"
    with holder(folder) as process:
        assert is_held(folder)
        for shared in (False, True):
            with pytest.raises(InputError) as caught, writing(folder, shared=shared):
                pass
            line = str(caught.value)
            assert f"{folder}: is being written by `" in line and "or write into another run" in line
            assert f"(process {process.pid} on {os.uname().nodename}, since 20" in line and "\n" not in line
    assert not is_held(folder) and holders(folder) == "another process"  # killed: nobody that could be named
    with writing(folder):
        assert (
            str(os.getpid()) in lock_path(folder).read_text() and str(process.pid) not in lock_path(folder).read_text()
        )


def test_shards_share_and_keep_others_out(tmp_path: Path) -> None:
    folder = tmp_path / "run/seeds"
    with holder(folder, "shared") as process, writing(folder, shared=True) as mine:
        assert not mine.alone()
        with pytest.raises(InputError, match="and 1 more"), writing(folder):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert mine.alone()
        with writing(folder, shared=True) as other:
            assert not other.alone() and not mine.alone()
        with pytest.raises(InputError, match="is being written by"), writing(folder):
            pass  # asking whether it is alone has not given the lock up


def test_settings_are_claimed_before_the_first_result(tmp_path: Path) -> None:
    """The race: a second process with another lr, before there is a file."""
    folder = tmp_path / "run/seeds"
    with stage(folder, 0.1):
        with pytest.raises(InputError, match="is being written by"), stage(folder, 0.2):
            pass
        assert read_json(folder / "manifest.json")["config"] == {"lr": 0.1}
    with stage(folder, 0.1, shared=True):
        with (
            pytest.raises(InputError, match="is being written with other settings by"),
            stage(folder, 0.2, shared=True),
        ):
            pass
        with stage(folder, 0.1, shared=True) as second:
            assert second.manifest["config"] == {"lr": 0.1}
        assert read_json(folder / "manifest.json")["config"] == {"lr": 0.1}
    with stage(folder, 0.2, shared=True) as later:  # nobody is at it, and nothing was made
        assert later.manifest["config"] == {"lr": 0.2}


def test_two_threads_race_for_a_stage_and_one_wins(tmp_path: Path) -> None:
    folder, won, refused = tmp_path / "run/seeds", [], []
    ready, over = threading.Barrier(8), threading.Barrier(8)

    def claim(number: int) -> None:
        ready.wait()
        try:
            with stage(folder, number) as mine:
                won.append(mine.manifest["config"]["lr"])
                over.wait()
        except InputError:
            refused.append(number)
            over.wait()

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and len(refused) == 7 and read_json(folder / "manifest.json")["config"]["lr"] == won[0]


def test_a_command_that_is_held_off_says_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_data(tmp_path / "data")
    words = ["train-classifier", "--data", str(tmp_path / "data/data.yaml"), "--train-split", "val", "--device", "cpu"]
    words += ["--architecture", "test_vit", "--weights", "none", "--epochs", "1", "--sizes", "32", "--name", "mine"]
    words += ["--runs", str(tmp_path / "runs"), "--precision", "float32"]
    folder = tmp_path / "runs/mine/classifier"
    with writing(folder):
        assert run(cli.app, words) == run(cli.app, [*words, "--restart"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2 and all(line.startswith(f"error: {folder}: is being written by `") for line in lines)
        assert not folder.exists()

    from vitseg import classifier

    original = classifier._step

    def step(*args: object) -> float:  # while it trains, another one with another lr
        monkeypatch.setattr(classifier, "_step", original)
        assert run(cli.app, [*words, "--lr", "0.5"]) == 2
        return original(*args)

    monkeypatch.setattr(classifier, "_step", step)
    assert run(cli.app, words) == 0
    manifest = read_json(folder / "manifest.json")
    assert manifest["config"]["lr"] == 1e-4 and len(manifest["history"]) == 1
    assert "is being written by" in capsys.readouterr().err


def test_where_there_are_no_locks_it_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*args: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(module, "_warned", set())
    folder = tmp_path / "run/seeds"
    with writing(folder) as mine, writing(folder, shared=True):
        assert mine.alone() and not is_held(folder)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "this file system has no locks (no locks available)" in lines[0]


def make_shard(number: int, data: Path, folder: Path, ready: Barrier) -> None:
    """Write the seeds of a shard, beside the others; in a process of its own."""

    def make(samples: Sequence[Sample], where: Path) -> SeedCounts:
        ready.wait(timeout=300)
        for sample in samples:
            k = len(sample.classes)
            seed = Seed(np.ones((k, 2, 2), np.float16), np.array(sample.classes, np.uint8), (4, 4))
            write_seed(where, sample.id, seed, sample.made_of)
        return SeedCounts(len(samples), 0, ())

    take_shard(f"{number}/3")
    run_seeds(load_dataset(data, "val"), folder, make, config={}, inputs={}, command="")


def test_seeds_of_shards_beside_each_other(tmp_path: Path) -> None:
    """Several processes write one stage on purpose."""
    data, folder = make_data(tmp_path / "data"), tmp_path / "run/seeds"
    context = multiprocessing.get_context("forkserver")
    ready = context.Barrier(3)
    started = [context.Process(target=make_shard, args=(number, data, folder, ready)) for number in (1, 2, 3)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0, 0]
    dataset = load_dataset(data, "val")
    assert Stage.read(folder, kind="seeds").pending([sample.id for sample in dataset]) == []
    assert read_json(folder / "manifest.json")["history"]  # by the last, or by several that end at once

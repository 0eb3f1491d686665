"""A stage knows what it was made of: by content, image by image, wherever the files lie and whatever their times."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_run import VAL, make_data, make_run

from vitseg.cli import app
from wsss.console import run
from wsss.data import load_dataset
from wsss.data.sample import Sample
from wsss.errors import InputError
from wsss.store import Seed, Stage, Training, due, inputs_of, read_json, read_mask, read_seed, write_mask, write_seed
from wsss.store import content as contents_of_files
from wsss.store.atomic import write_json
from wsss.store.content import MISSING, contents, hash_bytes
from wsss.store.inputs import Inputs
from wsss.store.records import inspect, pack

TINY = "--architecture test_vit --weights none --epochs 1 --batch-size 2 --precision float32 --sizes 32 --device cpu"
SEEDS = "--classifier mine --split val --sizes 32 --first-block 1 --method rollout --no-flip --device cpu"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_data(tmp_path / "data")
    return tmp_path


def train(place: Path, *options: object, data: str = "data") -> int:
    words = ["train-classifier", *TINY.split(), "--name", "mine", "--train-split", "val"]
    return run(
        app, [*words, "--runs", str(place / "runs"), "--data", str(place / data / "data.yaml"), *map(str, options)]
    )


def seeds(place: Path, data: str = "data", name: str = "seedy") -> int:
    words = ["seeds", *SEEDS.split(), "--runs", str(place / "runs"), "--data", str(place / data / "data.yaml")]
    return run(app, [*words, "--name", name])


def swap_labels(data: Path) -> None:
    table = data / "labels.csv"
    table.write_text(table.read_text().replace("cat", "c#t").replace("dog", "cat").replace("c#t", "dog"))


def paint(path: Path, seed: int) -> None:
    """Another photograph of the same size under the same name."""
    with Image.open(path) as image:
        size = (image.height, image.width, 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)).save(path)


def times(folder: Path) -> dict[str, int]:
    return {
        path.stem: path.stat().st_mtime_ns
        for path in folder.iterdir()
        if path.name[0] != "." and path.suffix != ".json"
    }


def line_of(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


# --- trainings ------------------------------------------------------------------------------------------------------


def test_a_training_of_other_labels_or_images_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(place) == train(place) == 0
    assert "trained already" in capsys.readouterr().out
    whole, before = (place / "data/labels.csv").read_text(), times(place / "runs/mine/classifier")
    swap_labels(place / "data")
    assert train(place) == 2
    line = line_of(capsys)
    assert "begun with other inputs: labels of 3 of 4 images changed (a is the first)" in line  # c shows both
    assert "write into another run, or give --restart to train anew" in line
    (place / "data/labels.csv").write_text(whole)
    assert train(place) == 0 and times(place / "runs/mine/classifier") == before

    paint(place / "data/images/b.png", 1)
    assert train(place) == 2 and "1 of 4 images changed (b)" in line_of(capsys)
    (place / "data/labels.csv").write_text(
        whole.replace("d.png,cat,val", "d.png,cat,own").replace("d,cat,val", "d,cat,own")
    )
    assert train(place) == 2
    assert "1 image taken away (d), 1 of 3 images changed (b)" in line_of(capsys)
    assert train(place, "--lr", 0.5) == 2 and "config.lr was 0.0001, is 0.5 now" in line_of(capsys)


def test_a_training_knows_the_split_that_it_was_judged_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(place) == 0  # judged on none: nothing is said of any
    assert train(place, "--val-split", "own") == 0 and "trained already" in capsys.readouterr().out
    assert train(place, "--val-split", "own", "--restart") == train(place, "--val-split", "own") == 0
    paint(place / "data/images/x.png", 1)
    capsys.readouterr()
    assert train(place, "--val-split", "own") == 2
    assert "begun with other inputs: val image changed" in line_of(capsys)
    assert train(place, "--val-split", "own", "--restart") == 0


def test_restart_moves_the_old_training_away(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(place) == 0
    old = (place / "runs/mine/classifier/classifier.safetensors").read_bytes()
    swap_labels(place / "data")
    assert train(place, "--restart") == train(place) == 0
    folder = place / "runs/mine"
    assert (folder / "classifier.old/classifier.safetensors").read_bytes() == old
    assert (folder / "classifier/classifier.safetensors").read_bytes() != old
    assert train(place, "--restart") == 0 and (folder / "classifier.old2/manifest.json").is_file()
    assert "trained already" in capsys.readouterr().out


def test_an_unfinished_training_does_not_go_on_with_other_labels(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(place) == 0
    folder = place / "runs/mine/classifier"
    (folder / "classifier.safetensors").rename(folder / "resume.pt")  # begun, and no checkpoint yet
    swap_labels(place / "data")
    assert train(place) == 2
    assert "labels of 3 of 4 images changed" in line_of(capsys)


def test_a_training_of_an_older_version_is_taken_over(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(place) == 0
    folder = place / "runs/mine/classifier"
    manifest = read_json(folder / "manifest.json")
    for key in ("content", "protocol", "sources"):
        del manifest[key]
    write_json(folder / "manifest.json", manifest)
    (folder / ".inputs.npz").unlink()
    before = times(folder)
    capsys.readouterr()
    assert train(place) == 0
    out = capsys.readouterr().out
    assert "does not say what it learnt from (an older version's); taken over" in out and "trained already" in out
    assert train(place) == 0 and "taken over" not in capsys.readouterr().out and times(folder) == before
    swap_labels(place / "data")
    assert train(place) == 2 and "labels" in line_of(capsys)


# --- image by image -------------------------------------------------------------------------------------------------


def test_changed_images_are_made_again_and_no_others(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(place) == seeds(place) == 0
    folder = place / "runs/seedy/seeds"
    made, first = times(folder), read_seed(folder, "b").scores
    capsys.readouterr()
    assert seeds(place) == 0 and times(folder) == made
    assert "4 of 4 seeds are up to date" in capsys.readouterr().out

    paint(place / "data/images/b.png", 1)
    assert seeds(place) == 0
    assert "3 of 4 seeds are up to date, 1 image changed" in capsys.readouterr().out
    after = times(folder)
    assert {name for name in VAL if after[name] != made[name]} == {"b"}
    assert not np.array_equal(read_seed(folder, "b").scores, first)

    for number, name in enumerate(VAL):  # every image is replaced under the same name
        paint(place / f"data/images/{name}.png", 10 + number)
    assert seeds(place) == 0
    assert "0 of 4 seeds are up to date, 4 images changed" in capsys.readouterr().out

    swap_labels(place / "data")
    assert seeds(place) == 0
    assert "1 of 4 seeds is up to date, labels of 3 images changed" in capsys.readouterr().out
    assert tuple(read_seed(folder, "a").classes) == (2,)


def test_images_added_and_taken_away(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(place) == seeds(place) == 0
    folder, table = place / "runs/seedy/seeds", place / "data/labels.csv"
    made, whole = times(folder), table.read_text()
    table.write_text("\n".join(line for line in whole.splitlines() if not line.startswith("d")) + "\n")
    (place / "data/images/d.png").rename(place / "data/d.png")
    capsys.readouterr()
    assert seeds(place) == 0 and "3 of 3 seeds are up to date" in capsys.readouterr().out
    (place / "data/d.png").rename(place / "data/images/d.png")
    shutil.copy(place / "data/images/a.png", place / "data/images/e.png")
    table.write_text(f"{whole}e.png,cat,val\n")
    assert seeds(place) == 0 and "4 of 5 seeds are up to date" in capsys.readouterr().out
    assert {name: when for name, when in times(folder).items() if name != "e"} == made


def test_copied_and_moved_data_and_runs_change_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(place) == seeds(place) == 0
    made = times(place / "runs/seedy/seeds")
    shutil.copytree(place / "data", place / "copy", copy_function=shutil.copyfile)  # other times
    for path in (place / "copy").rglob("*.png"):
        os.utime(path, (1, 1))
    capsys.readouterr()
    assert train(place, data="copy") == seeds(place, data="copy") == 0
    out = capsys.readouterr().out
    assert "trained already" in out and "4 of 4 seeds are up to date" in out

    (place / "data").rename(place / "moved")
    shutil.copytree(place / "runs", place / "elsewhere/runs")
    shutil.rmtree(place / "runs")
    (place / "elsewhere/runs").rename(place / "runs")
    assert train(place, data="moved") == seeds(place, data="moved") == 0
    out = capsys.readouterr().out
    assert "trained already" in out and "4 of 4 seeds are up to date" in out
    assert {name: when // 10**9 for name, when in times(place / "runs/seedy/seeds").items()} == {
        name: when // 10**9 for name, when in made.items()
    }


def test_two_data_sets_of_one_name_do_not_share_a_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(place) == seeds(place) == 0
    made = times(place / "runs/seedy/seeds")
    shutil.copytree(place / "data", place / "other")
    for number, name in enumerate(VAL):
        paint(place / f"other/images/{name}.png", number)
    assert seeds(place, data="other") == 2
    line = line_of(capsys)
    assert f"holds seeds of the data in {place / 'data'}; 4 images of the same name in {place / 'other'} differ" in line
    assert times(place / "runs/seedy/seeds") == made
    assert seeds(place, data="other", name="second") == 0
    shutil.rmtree(place / "data")  # moved and changed: there is no other data set that it could be
    assert seeds(place, data="other") == 0 and "4 images changed" in capsys.readouterr().out


def test_results_of_an_older_version_are_taken_over(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(place) == seeds(place) == 0
    folder = place / "runs/seedy/seeds"
    for name in VAL:  # as they were written before
        write_seed(folder, name, read_seed(folder, name))
    made = times(folder)
    capsys.readouterr()
    assert seeds(place) == 0
    assert "4 seeds do not say what they were made of" in capsys.readouterr().out
    assert seeds(place) == 0 and times(folder) == made
    assert "do not say" not in capsys.readouterr().out
    paint(place / "data/images/b.png", 1)
    assert seeds(place) == 0 and "3 of 4 seeds are up to date, 1 image changed" in capsys.readouterr().out
    after = times(folder)
    assert {name for name in VAL if after[name] != made[name]} == {"b"}


def test_an_old_seed_that_shows_other_classes_is_not_taken_over(place: Path) -> None:
    assert train(place) == seeds(place) == 0
    folder = place / "runs/seedy/seeds"
    for name in VAL:
        write_seed(folder, name, read_seed(folder, name))
    swap_labels(place / "data")
    made = times(folder)
    assert seeds(place) == 0
    assert {name for name in VAL if times(folder)[name] != made[name]} == {"a", "b", "d"}


def test_what_is_read_must_be_of_these_images(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from affinity.cli import app as affinity

    assert train(place) == seeds(place) == 0
    words = ["labels", "--seeds", "seedy", "--split", "val", "--workers", "1", "--runs", str(place / "runs")]
    words += ["--data", str(place / "data/data.yaml")]
    assert run(affinity, words) == 0
    paint(place / "data/images/b.png", 1)
    assert run(affinity, words) == 2
    line = line_of(capsys)
    assert "1 of 4 images of split val has changed, or their labels, since their seed was made (b" in line
    assert seeds(place) == 0
    capsys.readouterr()
    assert run(affinity, words) == 0
    assert "3 of 4 labels are up to date, 1 image changed" in capsys.readouterr().out


def test_a_protocol_of_another_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wsss.store import stage

    how = {"kind": "seeds", "config": {}, "class_names": ("cat",), "suffix": ".npz"}
    first = Stage.open(tmp_path, **how)
    (tmp_path / "a.npz").write_bytes(b"a result")
    monkeypatch.setitem(stage.PROTOCOLS, "seeds", 2)
    with pytest.raises(InputError, match="protocol was 1, is 2 now"):
        Stage.open(tmp_path, **how)
    assert Stage.open(tmp_path / "new", **how).fingerprint != first.fingerprint


# --- the tests of explanations --------------------------------------------------------------------------------------


@pytest.fixture
def evaluate(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    from wsss.explanation_tests import evaluations

    monkeypatch.setattr(evaluations, "PART", 2)
    assert train(place) == 0

    def call(test: str = "segmentation-test", data: str = "data") -> int:
        words = [test, "--classifier", "mine", "--split", "val", "--methods", "rollout", "--device", "cpu"]
        return run(app, [*words, "--runs", str(place / "runs"), "--data", str(place / data / "data.yaml")])

    return call


@pytest.mark.parametrize("test", ["segmentation-test", "perturbation-test"])
def test_a_test_makes_the_parts_of_changed_images_again(
    test: str, place: Path, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place / f"runs/mine.rollout/{test.split('-')[0]}/tiny_val"
    assert evaluate(test) == 0
    parts = {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    assert len(parts) == 2  # images a b | d
    shutil.copytree(place / "data", place / "copy", copy_function=shutil.copyfile)
    capsys.readouterr()
    assert evaluate(test, "copy") == 0 and "3 of 3 results" in capsys.readouterr().out
    paint(place / "copy/images/d.png", 1)
    shutil.rmtree(place / "data")
    assert evaluate(test, "copy") == 0
    out = capsys.readouterr().out
    assert "1 of 2 parts is of images that have changed" in out and "2 of 3 results" in out
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    assert [name for name in sorted(parts) if parts[name] != after[name]] == ["part-00001.npz"]

    mask = place / "copy/masks/a.png"
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    assert evaluate(test, "copy") == 0
    assert ("1 of 2 parts" in capsys.readouterr().out) == (test == "segmentation-test")

    table = place / "copy/labels.csv"
    table.write_text(table.read_text().replace("d.png,cat,val", "d.png,cat,own").replace("d,cat,val", "d,cat,own"))
    assert evaluate(test, "copy") == 0
    assert [path.name for path in folder.glob("part-*")] == ["part-00000.npz"]


def test_a_test_of_an_older_version_is_taken_over_if_its_times_still_hold(
    place: Path, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    from wsss.data import foreground_set
    from wsss.explanation_tests import evaluations

    assert evaluate() == 0
    folder = place / "runs/mine.rollout/segmentation/tiny_val"
    for path in folder.glob("part-*"):
        path.write_bytes(path.read_bytes()[:-2])  # without its record
        with np.load(path) as arrays:
            content = dict(arrays)
        np.savez_compressed(path, **content)
    manifest = read_json(folder / "manifest.json")
    manifest["inputs"]["images"] = "?"
    write_json(folder / "manifest.json", manifest)
    dataset = foreground_set(load_dataset(place / "data/data.yaml", "val"))
    manifest["inputs"] |= evaluations._times(folder, dataset, masks=True)
    write_json(folder / "manifest.json", manifest)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    assert evaluate() == 0
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    capsys.readouterr()
    os.utime(place / "data/images/a.png", (1, 1))
    assert evaluate() == 2 and "inputs.images was" in line_of(capsys)


# --- the pieces -----------------------------------------------------------------------------------------------------


def test_contents_tell_files_apart_and_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents_of_files, "_RACY", -(10**12))
    paths = [tmp_path / name for name in "abc"]
    for path, data in zip(paths, (b"one", b"two", b"one"), strict=True):
        path.write_bytes(data)
    first = contents([*paths, None, tmp_path / "none", paths[0]])
    assert first[0] == first[2] == first[5] != first[1] and first[3] == first[4] == MISSING
    reads: list[str] = []
    original = contents_of_files._hash_file
    monkeypatch.setattr(contents_of_files, "_hash_file", lambda path: (reads.append(path), original(path))[1])
    assert np.array_equal(contents([*paths, None]), first[:4]) and reads == []
    state = paths[1].stat()
    paths[1].write_bytes(b"six")  # as long, and with the times of the other
    os.utime(paths[1], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert contents(paths)[1] not in (first[0], first[1]) and reads == [str(paths[1])]
    paths[2].rename(tmp_path / "d")
    assert contents([tmp_path / "d"]) == first[2]


def test_many_files_come_in_batches_and_each_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELSEG_CACHE", str(tmp_path / "cache"))
    for name, value in (("_RACY", -(10**12)), ("_BATCH", 4), ("_ASKED", 3), ("_AT_ONCE", 2)):
        monkeypatch.setattr(contents_of_files, name, value)
    files = [tmp_path / f"{number:02d}" for number in reversed(range(11))]
    for path in files[:-1]:  # the last is missing
        path.write_bytes(path.name.encode())
    paths = [files[5], None, *files, files[2], files[-1], None, *files]
    expected = [MISSING if p in (None, files[-1]) else hash_bytes(p.name.encode()) for p in paths]
    reads: list[str] = []
    original = contents_of_files._hash_file
    monkeypatch.setattr(contents_of_files, "_hash_file", lambda path: (reads.append(path), original(path))[1])
    assert contents(paths).tolist() == expected
    assert sorted(reads) == sorted(map(str, files))
    reads.clear()
    files[3].write_bytes(b"changed")
    expected = [hash_bytes(b"changed") if p == files[3] else e for p, e in zip(paths, expected, strict=True)]
    assert contents(paths).tolist() == expected
    assert sorted(reads) == sorted(map(str, (files[3], files[-1])))


def test_a_file_that_has_just_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELSEG_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a"
    path.write_bytes(b"one")
    known, state = contents([path]), path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert contents([path]) != known


@pytest.mark.parametrize("fault", ["no folder", "no database"])
def test_without_a_cache_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    where = tmp_path / "cache"
    monkeypatch.setenv("RELSEG_CACHE", str(where))
    monkeypatch.setattr(contents_of_files._Cache, "_warned", False)
    if fault == "no folder":
        where.write_text("a file")
    else:
        where.mkdir()
        (where / "content.sqlite3").write_bytes(b"no database" * 1000)
    (tmp_path / "a").write_bytes(b"one")
    assert contents([tmp_path / "a"]) == contents([tmp_path / "a"]) != MISSING
    assert capsys.readouterr().err.count("are not remembered") == 1


def test_records_lie_in_whole_files(tmp_path: Path) -> None:
    record = {"image": "0" * 16, "labels": "f" * 16, "seeds of a rather long name of a run": "a" * 16}
    seed = Seed(np.ones((1, 2, 3), np.float16), np.array([1], np.uint8), (4, 5))
    mask = np.ones((4, 5), np.uint8)
    write_seed(tmp_path, "a", seed, pack(record))
    write_mask(tmp_path, "a", mask, pack(record))
    write_seed(tmp_path, "b", seed)
    write_mask(tmp_path, "b", mask)
    for suffix in (".npz", ".png"):
        assert inspect(tmp_path / f"a{suffix}") == (True, record)
        assert inspect(tmp_path / f"b{suffix}") == (True, None)
        whole = (tmp_path / f"a{suffix}").read_bytes()
        for cut in range(1, len(whole)):
            (tmp_path / f"c{suffix}").write_bytes(whole[:-cut])
            assert inspect(tmp_path / f"c{suffix}") == (False, None), cut
    assert np.array_equal(read_seed(tmp_path, "a").scores, seed.scores)
    assert np.array_equal(read_mask(tmp_path, "a"), mask)


def test_inputs_are_kept_and_compared(tmp_path: Path) -> None:
    def made(ids: str, **columns: list[int]) -> Inputs:
        return Inputs(tuple(ids), {name: np.array(column, np.uint64) for name, column in columns.items()})

    old = made("abc", image=[1, 2, 3], labels=[4, 5, 6])
    old.save(tmp_path)
    found = Inputs.read(tmp_path)
    assert found is not None and found.ids == old.ids and found.digests == old.digests
    assert old.changes(found) == ""
    assert made("abc", image=[1, 9, 3], labels=[4, 5, 6]).changes(old) == "1 of 3 images changed (b)"
    assert made("abc", image=[1, 2, 3], labels=[7, 8, 9]).changes(old) == (
        "labels of all 3 images changed (a is the first)"
    )
    assert made("abd", image=[1, 9, 3], labels=[4, 5, 6]).changes(old) == (
        "1 image added (d), 1 image taken away (c), 1 of 2 images changed (b)"
    )
    assert made("acb", image=[1, 3, 2], labels=[4, 6, 5]).changes(old) == "the order of the images changed"
    assert made("abc", image=[1, 2, 3], labels=[4, 5, 6], mask=[1, 1, 1]).changes(old) == ""
    (tmp_path / ".inputs.npz").write_bytes(b"no")
    assert Inputs.read(tmp_path) is None


def test_masks_count_with_the_table_they_are_read_by(place: Path) -> None:
    dataset = load_dataset(place / "data/data.yaml", "val")
    other = dataset.mask_values.copy()
    other[7] = 1
    one, two, three = (inputs_of(dataset.samples, mask=table) for table in (dataset.mask_values, other, None))
    assert one.digests["mask"] != two.digests["mask"] and "mask" not in three.digests
    assert one.digests["image"] == two.digests["image"] == three.digests["image"]


def test_the_second_look_at_many_files_is_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 files, far below a second on an idle machine; nothing is read the second time."""
    monkeypatch.setenv("RELSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents_of_files, "_RACY", -(10**12))
    samples = []
    for number in range(2_000):
        path = tmp_path / f"{number}.png"
        path.write_bytes(bytes([number % 256, number // 256]) * 50)
        samples.append(Sample(str(number), path, (1,)))
    first = inputs_of(samples)
    monkeypatch.setattr(contents_of_files, "_hash_file", lambda path: pytest.fail(f"{path} is read again"))
    begin = time.process_time()
    assert inputs_of(samples).digests == first.digests
    assert time.process_time() - begin < 1


def test_stages_by_hand_and_by_command_are_read_alike(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Anybody's seeds, without a record, are up to date until their image changes."""
    make_run(place / "runs/mine", place / "data/data.yaml")
    dataset = load_dataset(place / "data/data.yaml", "val")
    stage = Stage.read(place / "runs/mine/seeds", kind="seeds")
    assert due(stage, dataset.samples, "seeds") == [] == due(stage, dataset.samples, "seeds")
    assert capsys.readouterr().out.count("do not say what they were made of") == 1
    paint(place / "data/images/b.png", 5)
    assert [sample.id for sample in due(stage, dataset.samples, "seeds")] == ["b"]


def test_a_training_that_was_begun_by_nobody_says_nothing(tmp_path: Path) -> None:
    learnt = Inputs(("a",), {"image": np.ones(1, np.uint64)})
    identity = {"kind": "classifier", "config": {}, "class_names": ("cat",)}
    training = Training(tmp_path / "x/classifier", "c.safetensors", "resume.pt", identity, learnt)
    assert not training.finished() and not (tmp_path / "x").exists()
    training.restart()
    assert not (tmp_path / "x/classifier").exists()

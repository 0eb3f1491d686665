"""Seeds of several runs as one, labels from walked scores, and the walk that goes with the seeds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import make_data, make_run, val
from torch.nn import functional as F

from affinity.checkpoint import save_affinity_network
from affinity.cli import app
from affinity.combine import CombineConfig, combine_seeds
from affinity.labels import LabelsConfig, confident_labels
from affinity.network import AffinityNetwork
from affinity.settings import NetworkConfig, RefineConfig
from wsss.console import run
from wsss.data import read_image
from wsss.errors import InputError
from wsss.store import Seed, Stage, config_of, read_json, read_mask, read_seed, write_seed


def seed_of(shape: tuple[int, ...], number: int, size: tuple[int, int] = (40, 56)) -> Seed:
    scores = (np.random.default_rng(number).random(shape) * 0.8).astype(np.float16)
    return Seed(scores, np.array([2, 7, 9][: shape[0]], np.uint8), size)


@pytest.mark.parametrize("rule", ["mean", "geometric"])
@pytest.mark.parametrize(("weights", "powers"), [(None, None), ((3, 1), None), ((0.5, 2), (2, 0.5))])
def test_value_by_value(rule: str, weights: tuple[float, ...] | None, powers: tuple[float, ...] | None) -> None:
    coarse, fine = seed_of((2, 4, 5), 0), seed_of((2, 9, 7), 1)
    found = combine_seeds([coarse, fine], CombineConfig(rule=rule, weights=weights, powers=powers))
    raised = F.interpolate(torch.tensor(coarse.scores[None].astype(np.float64)), (9, 7), mode="bilinear")[0].numpy()
    assert found.scores.shape == (2, 9, 7) and found.scores.dtype == np.float16 and found.size == (40, 56)
    for k in range(2):
        for y in range(9):
            for x in range(7):
                parts = [one[k, y, x] / one[k].max() for one in (raised, fine.scores.astype(np.float64))]
                parts = [part**power for part, power in zip(parts, powers or (1, 1), strict=True)]
                total, (a, b) = sum(weights or (1, 1)), weights or (1, 1)
                mean = (a * parts[0] + b * parts[1]) / total
                geometric = (parts[0] ** a * parts[1] ** b) ** (1 / total)
                assert found.scores[k, y, x] == pytest.approx({"mean": mean, "geometric": geometric}[rule], abs=1e-3)


def test_empty_maps_and_images_without_classes() -> None:
    nothing = Seed(np.zeros((2, 4, 5), np.float16), np.array([2, 7], np.uint8), (40, 56))
    found = combine_seeds([nothing, seed_of((2, 4, 5), 0)])
    assert found.scores.max() == 0.5
    assert combine_seeds([nothing, seed_of((2, 4, 5), 0)], CombineConfig(rule="geometric")).scores.max() == 0
    assert combine_seeds([seed_of((0, 1, 1), 0), seed_of((0, 3, 4), 0)]).scores.shape == (0, 3, 4)


def test_seeds_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="expected equal classes and sizes"):
        combine_seeds([seed_of((2, 4, 5), 0), seed_of((1, 4, 5), 0)])
    with pytest.raises(ValueError, match="expected equal classes and sizes"):
        combine_seeds([seed_of((2, 4, 5), 0), seed_of((2, 4, 5), 0, size=(40, 57))])
    for option in ("weights", "powers"):
        with pytest.raises(InputError, match=rf"`{option}`: expected one for each of the 2 runs of `seeds`, got 3"):
            combine_seeds([seed_of((1, 4, 5), 0)] * 2, CombineConfig(**{option: (1, 2, 3)}))


def test_the_walk_goes_with_the_seeds() -> None:
    filled, peaks = {"attention_walk": 2}, {"method": "cam"}
    assert RefineConfig().settled(filled).walk() == (8, 32, False, 8)
    assert RefineConfig().settled(peaks).walk() == RefineConfig().walk() == (8, 256, True, 1)
    assert RefineConfig(steps=7, preset="relseg").settled(filled).walk() == (8, 7, True, 1)
    assert RefineConfig(steps=7).settled(filled).walk() == (8, 7, False, 8)


# The commands --------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """data/data.yaml, runs one and two with seeds, and net.safetensors, an affinity network without training."""
    data = make_data(tmp_path / "data")
    for number, name in enumerate(("one", "two")):
        make_run(tmp_path / "runs" / name, data, seed=number)
        for made in ("masks", "affinity_labels"):
            shutil.rmtree(tmp_path / "runs" / name / made)
    config = NetworkConfig(backbone="test_resnet", weights=None, levels=(1, 2), widths=(8, 8), dim=16, groups=4)
    torch.manual_seed(0)
    save_affinity_network(tmp_path / "net.safetensors", AffinityNetwork(config))
    return tmp_path


@pytest.fixture
def affinity(place: Path) -> Callable[..., int]:
    def call(command: str, *options: object) -> int:
        common = ["--data", place / "data/data.yaml", "--split", "val", "--runs", place / "runs"]
        return run(app, [str(token) for token in (command, *common, *options)])

    return call


def times(folder: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in folder.glob("*.*") if path.suffix in (".npz", ".png")}


def test_masks_of_several_runs(place: Path, affinity: Callable[..., int]) -> None:
    refine = ("refine", "--network", place / "net.safetensors", "--workers", 1, "--device", "cpu")
    both = ("--seeds", "one", "two")
    assert affinity(*refine, *both) == 0
    folder = place / "runs/one+two"
    for sample in val(place / "data/data.yaml"):
        sources = [read_seed(place / "runs" / name / "seeds", sample.id) for name in ("one", "two")]
        expected = combine_seeds(sources)
        np.testing.assert_array_equal(read_seed(folder / "seeds", sample.id).scores, expected.scores)
    manifest = read_json(folder / "seeds/manifest.json")
    assert manifest["config"]["sources"] == ["one", "two"]
    for name in ("one", "two"):
        fingerprint = Stage.read(place / "runs" / name / "seeds", kind="seeds").fingerprint
        assert manifest["inputs"][f"seeds of {name}"] == fingerprint
    before = times(folder / "seeds"), times(folder / "masks")
    assert affinity(*refine, *both) == 0 and (times(folder / "seeds"), times(folder / "masks")) == before

    seed = read_seed(place / "runs/two/seeds", "b")
    write_seed(place / "runs/two/seeds", "b", replace(seed, scores=1 - seed.scores))  # made again, otherwise
    assert affinity(*refine, *both) == 0
    for old, stage in zip(before, ("seeds", "masks"), strict=True):
        new = times(folder / stage)
        assert [name for name in sorted(new) if new[name] != old[name]] == ["b"]

    assert affinity("labels", *both, "--workers", 1) == 0 and len(times(folder / "affinity_labels")) == 4
    assert affinity("combine", *both, "--weights", 2, 1, "--rule", "geometric", "--name", "weighed") == 0
    sources = [read_seed(place / "runs" / name / "seeds", "c") for name in ("one", "two")]
    expected = combine_seeds(sources, CombineConfig(rule="geometric", weights=(2, 1)))
    np.testing.assert_array_equal(read_seed(place / "runs/weighed/seeds", "c").scores, expected.scores)
    assert affinity(*refine, "--seeds", "weighed") == 0


def test_labels_of_walked_scores(place: Path, affinity: Callable[..., int]) -> None:
    run_folder = place / "runs/one"
    labels = ("labels", "--seeds", "one", "--from", "refined", "--workers", 1)
    assert affinity("refine", "--seeds", "one", "--network", place / "net.safetensors", "--device", "cpu") == 0
    assert affinity(*labels, "--into", "second") == 0
    config = LabelsConfig(alpha_low=0.5, alpha_high=4)
    for sample in val(place / "data/data.yaml"):
        refined = read_seed(run_folder / "refined", sample.id)
        expected = confident_labels(
            np.asarray(read_image(sample.image_path)), refined.upsample(), refined.classes, config
        )
        np.testing.assert_array_equal(read_mask(place / "runs/second/affinity_labels", sample.id), expected)
    assert config_of(place / "runs/second/affinity_labels")["alpha_low"] == 0.5
    fingerprint = Stage.read(run_folder / "refined", kind="seeds").fingerprint
    assert read_json(place / "runs/second/affinity_labels/manifest.json")["inputs"] == {"refined": fingerprint}


def test_mistakes_are_one_line(place: Path, affinity: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*command: object) -> str:
        capsys.readouterr()
        assert affinity(*command) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0]

    assert "expected two or more runs of different names" in refused("combine", "--seeds", "one")
    assert "expected two or more runs of different names" in refused("combine", "--seeds", "one", "one")
    assert "did you mean 'two'" in refused("labels", "--seeds", "one", "too")
    assert "--weights: expected one for each of the 2 runs of --seeds, got 3" in refused(
        "combine", "--seeds", "one", "two", "--weights", 1, 2, 3
    )
    assert "`affinity labels` makes it" in refused("train", "--seeds", "one", "two")
    assert "refined: no seeds there (no manifest.json); `affinity refine` makes it" in refused(
        "labels", "--seeds", "one", "--from", "refined"
    )
    assert not (place / "runs/one+two").exists()
    (place / "runs/two/seeds/c.npz").unlink()
    assert "1 of 4 images of split val has no seed (c is the first)" in refused("combine", "--seeds", "one", "two")

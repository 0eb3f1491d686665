"""Photographs and masks as people have them: turned, large, deep, of other values, many in one file."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from small_run import make_run

from affinity.augment import Example, Examples
from affinity.labels import label_images
from affinity.settings import AugmentConfig
from wsss.cli import app
from wsss.console import run
from wsss.data import (
    DataConfig,
    Dataset,
    Sample,
    check_foreground,
    image_size,
    load_dataset,
    paired_folders,
    read_image,
    read_label_image,
)
from wsss.data.check import check_dataset
from wsss.entries import read_metrics
from wsss.errors import InputError
from wsss.evaluate import evaluate_run
from wsss.explanation_tests.segmentation import load_pair
from wsss.maps import write_seeds
from wsss.metrics import seed_to_mask
from wsss.report.pictures import draw_block
from wsss.store import Seed, Stage, class_array, read_mask, read_seed, write_seed

UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""Orientation -> what turns the stored pixels upright (EXIF 2.3, tag 0x0112)."""
OWN = DataConfig(name="own", layout="folder", classes=("cat", "dog"))


def save(path: Path, pixels: np.ndarray, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def folder_data(root: Path, rows: dict[str, str]) -> Path:
    """labels.csv of images that are there; returns the root."""
    (root / "labels.csv").write_text("image,classes\n" + "".join(f"{name},{shown}\n" for name, shown in rows.items()))
    return root


# --- orientation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photograph_and_mask_of_a_turned_file(tmp_path: Path, orientation: int) -> None:
    stored = np.random.default_rng(orientation).integers(0, 256, (20, 32, 3), np.uint8)
    due = UPRIGHT[orientation](stored)
    path = save(tmp_path / "images/a.png", stored, orientation)
    assert np.array_equal(np.asarray(read_image(path)), due) and image_size(path) == due.shape[:2]
    drawn = (due[..., 0] > 100).astype(np.uint8)
    save(tmp_path / "masks/a.png", drawn)
    data = load_dataset(OWN, "all", folder_data(tmp_path, {"a": "cat"}))
    image, truth = load_pair(data, data.samples[0], due.shape[:2])
    assert np.array_equal(image, due) and np.array_equal(truth, drawn)
    # a mask with an orientation of its own is turned by it, like the photograph
    save(tmp_path / "masks/a.png", (stored[..., 0] > 100).astype(np.uint8), orientation)
    assert np.array_equal(data.load_mask(data.samples[0]), drawn)
    notes = "\n".join(check_dataset(OWN, None, tmp_path).notes)
    assert ("photographs with masks are stored turned" in notes) == (orientation > 1)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_mask_that_is_not_upright_is_told_apart(tmp_path: Path, orientation: int, capsys) -> None:
    stored = np.zeros((20, 32, 3), np.uint8)
    save(tmp_path / "images/a.jpg", stored, orientation)
    upright = UPRIGHT[orientation](stored).shape[:2]
    mask = np.zeros(upright[::-1], np.uint8)
    mask[5:9, 5:9] = 1
    save(tmp_path / "masks/a.png", mask)
    data = load_dataset(OWN, "all", folder_data(tmp_path, {"a": "cat"}))
    told = "the photograph is stored turned (EXIF orientation 6) and read upright, so turn the mask upright, too"
    sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels, its image {upright[1]} x {upright[0]} (width x height)"
    with pytest.raises(InputError) as caught:
        load_pair(data, data.samples[0], (8, 8))
    assert sizes in str(caught.value) and (told in str(caught.value)) == (orientation == 6)
    (problem,) = check_dataset(OWN, None, tmp_path).problems
    assert problem == str(caught.value)
    seed = Seed(np.ones((1, 4, 4), np.float16), class_array((1,)), upright)
    stage = Stage.open(tmp_path / "run/seeds", kind="seeds", config={}, class_names=data.class_names, suffix=".npz")
    write_seed(stage.folder, "a", seed)
    with pytest.raises(InputError) as caught:
        evaluate_run(tmp_path / "run", data)
    assert (told in str(caught.value)) == (orientation == 6)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_large_photograph_is_read_reduced(tmp_path: Path, suffix: str, orientation: int) -> None:
    small = np.random.default_rng(0).integers(0, 256, (12, 18, 3), np.uint8)
    path = save(tmp_path / f"a.{suffix}", cv2.resize(small, (900, 600), interpolation=cv2.INTER_CUBIC), orientation)
    full = read_image(path)
    third = 450 if suffix == "jpg" else 300
    for at_least, longest in ((200, 225), (300, third), (451, 900), (5000, 900)):
        found = read_image(path, at_least=at_least)
        assert max(found.size) == longest, (at_least, found.size)
        due = cv2.resize(np.asarray(full), found.size, interpolation=cv2.INTER_AREA)
        assert np.abs(np.asarray(found, int) - due).mean() < 2


def test_more_pixels_than_pillow_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", np.zeros((20, 32, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # 640 pixels lie between the warning and the error
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).size == (32, 20) and image_size(path) == (20, 32)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    for read in (read_image, image_size, read_label_image):
        with pytest.raises(InputError, match=r"a\.png: expected at most 0 million pixels, it has more; shrink it"):
            read(path)


# --- modes ----------------------------------------------------------------------------------------------------------


def test_modes_of_photographs(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    image = Image.fromarray(rgb)
    image.save(tmp_path / "rgb.png")
    image.convert("RGBA").save(tmp_path / "rgba.png")
    image.convert("L").convert("LA").save(tmp_path / "la.png")
    image.quantize(256).save(tmp_path / "palette.png", transparency=b"\0\x80")
    cut_out = image.convert("RGBA")
    cut_out.putalpha(Image.fromarray(np.tile(np.uint8([0, 255, 51]), (8, 3))))
    cut_out.save(tmp_path / "cut_out.png")
    image.save(tmp_path / "still.gif", save_all=True, append_images=[Image.new("RGB", (9, 8))] * 2)
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {path.stem: np.asarray(read_image(path)) for path in tmp_path.iterdir()}
    assert all(pixels.shape == (8, 9, 3) for pixels in found.values())
    assert np.array_equal(found["rgb"], rgb) and np.array_equal(found["rgba"], rgb)
    assert np.asarray(read_image(tmp_path / "cut_out.png", at_least=3)).min() >= 150  # its columns' means
    on_white = np.where(np.arange(9)[:, None] % 3 == 0, 255, rgb)
    third = np.arange(9) % 3 == 2
    on_white[:, third] = np.rint(0.2 * rgb[:, third] + 0.8 * 255)
    assert np.abs(found["cut_out"].astype(int) - on_white).max() <= 1
    assert np.array_equal(found["la"], np.asarray(image.convert("L").convert("RGB")))
    for name, pixels in (("deep", np.zeros((8, 9), np.uint16)), ("float", np.zeros((8, 9), np.float32))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.tif")
        with pytest.raises(InputError, match=r"^image \S+: expected 8 bits a channel"):
            read_image(tmp_path / f"{name}.tif")


def test_deep_masks_are_read_where_they_fit(tmp_path: Path) -> None:
    values = np.array([[0, 1, 254, 255]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_label_image(tmp_path / "a.png").tolist() == values.tolist()
    Image.fromarray(values * 257).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: pixel values 0 to 65535; expected 0 background, 1 to 254 classes"):
        read_label_image(tmp_path / "a.png")


# --- masks of 0 and 255 ---------------------------------------------------------------------------------------------


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """Two images of one class each, with masks of 0 and 255, and a third of both classes without a mask."""
    for place, name in enumerate("abc"):
        save(tmp_path / f"images/{name}.png", np.full((20, 32, 3), 50 * place, np.uint8))
        mask = np.zeros((20, 32), np.uint8)
        mask[:, : 8 + 8 * place] = 255
        if name != "c":
            save(tmp_path / f"masks/{name}.png", mask)
    return folder_data(tmp_path, {"a": "cat", "b": "dog", "c": "cat;dog"})


def test_masks_without_foreground_are_refused_until_it_is_named(binary: Path) -> None:
    data = load_dataset(OWN, "all", binary)
    told = r"own/all: no mask shows a class: 2 masks hold 0 and 255 alone, and 255 is ignored.*`foreground_value` 255"
    with pytest.raises(InputError, match=told):
        check_foreground(data)
    problems = "\n".join(check_dataset(OWN, None, binary).problems)
    assert "no mask shows a class: where 255 is the object, give `foreground_value` 255" in problems
    for config, value in ((OWN, 255), (OWN.model_copy(update={"foreground_value": 255}), None)):
        data = load_dataset(config, "all", binary, foreground_value=value)
        check_foreground(data)
        assert [np.unique(data.load_mask(sample)).tolist() for sample in data.samples[:2]] == [[0, 1], [0, 2]]
        assert check_dataset(config, None, binary, foreground_value=value).problems == ()
    save(binary / "masks/c.png", np.zeros((20, 32), np.uint8))
    with pytest.raises(InputError, match="image c is labelled cat, dog; a mask of one value goes with a single class"):
        data = load_dataset(OWN, "all", binary, foreground_value=255)
        data.load_mask(data.samples[2])
    for name in "abc":
        save(binary / f"masks/{name}.png", np.zeros((20, 32), np.uint8))
    with pytest.raises(InputError, match=r"no mask shows a class: 3 masks hold 0 alone$"):
        check_foreground(load_dataset(OWN, "all", binary))


def test_figures_of_masks_of_0_and_255(binary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are those of the same masks with the class indices written into them."""
    (binary / "data.yaml").write_text("name: own\nlayout: folder\nroot: .\nclasses: [cat, dog]\n")
    data = load_dataset(binary / "data.yaml", "all", foreground_value=255)
    make_run(binary / "runs/one", binary / "data.yaml", ("all",))
    command = ["evaluate", "one", "--data", str(binary / "data.yaml"), "--split", "all", "--runs", str(binary / "runs")]
    assert run(app, [*command, "--workers", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("where 255 is the object, give --foreground-value 255")
    assert run(app, ["data-check", "--data", str(binary / "data.yaml"), "--workers", "1"]) == 2
    assert "where 255 is the object, give --foreground-value 255\n" in capsys.readouterr().err
    assert run(app, [*command, "--workers", "1", "--foreground-value", "255"]) == 0
    found = {(e.stage, e.rule): (e.miou, e.iou) for e in read_metrics(binary / "runs/one")}
    for sample in data.samples[:2]:
        save(sample.mask_path, data.load_mask(sample))
    assert run(app, [*command, "--workers", "1"]) == 0
    assert found == {(e.stage, e.rule): (e.miou, e.iou) for e in read_metrics(binary / "runs/one")}
    assert all(miou is None or 0 < miou < 100 for miou, _ in found.values())


def test_foreground_of_paired_folders(binary: Path) -> None:
    save(binary / "masks/c.png", np.zeros((20, 32), np.uint8))
    with pytest.raises(InputError, match="`foreground_value` 255"):
        check_foreground(paired_folders(binary / "images", binary / "masks"))
    data = paired_folders(binary / "images", binary / "masks", 255)
    check_foreground(data)
    assert [int((data.load_mask(sample) == 1).sum()) for sample in data] == [8 * 20, 16 * 20, 0]
    for value in (0, 256):
        with pytest.raises(InputError, match=f"`foreground_value` {value}: expected a pixel value from 1 to 255"):
            paired_folders(binary / "images", binary / "masks", value)


# --- many classes, many images in a file ----------------------------------------------------------------------------


def flat_maps(images: list[Image.Image], samples: list[Sample]) -> list[np.ndarray]:
    return [np.full((len(sample.classes), 4, 5), 0.5, np.float32) for sample in samples]


def test_seeds_of_a_thousand_classes(tmp_path: Path) -> None:
    names = tuple(f"c{number}" for number in range(1000))
    for name in ("c0_a", "c254_b", "c999_c"):
        save(tmp_path / f"{name}.png", np.zeros((20, 32, 3), np.uint8))
    data = load_dataset(DataConfig(name="many", layout="imagenet", classes=names), "all", tmp_path)
    counts = write_seeds(data.samples, tmp_path / "seeds", flat_maps, group=2, method="flat", remedy="")
    assert counts.failed == () and counts.images == 3
    seeds = [read_seed(tmp_path / "seeds", sample.id) for sample in data]
    assert [(seed.classes.tolist(), seed.classes.dtype) for seed in seeds] == [
        ([1], np.uint8),
        ([255], np.uint16),
        ([1000], np.uint16),
    ]
    assert np.unique(seed_to_mask(seeds[2].upsample(), seeds[2].classes, threshold=0.2)).tolist() == [1000]
    stage = tmp_path / "run"
    stage.mkdir()
    (tmp_path / "seeds").rename(stage / "seeds")
    block = draw_block(data.samples[2], data, {"run": stage}, ["seeds"], alpha=8)
    assert "c999 100 %" in block.rows[0][1][0].alt
    with pytest.raises(InputError, match="data set many: expected at most 254 classes in masks, got 1000"):
        data.check_maskable()


@pytest.fixture
def matlab(tmp_path: Path) -> Dataset:
    """Two images of ImageNet-segmentation in one file."""
    rng = np.random.default_rng(0)
    reference = h5py.special_dtype(ref=h5py.Reference)
    with h5py.File(tmp_path / "gtsegs_ijcv.mat", "w") as file:
        images, truths = (file.create_dataset(f"/value/{name}", (2, 1), reference) for name in ("img", "gt"))
        for place in range(2):
            pixels = rng.integers(0, 256, (40, 56, 3), np.uint8)
            truth = np.zeros((40, 56), np.uint8)
            truth[8:30, 10:40] = 1
            images[place, 0] = file.create_dataset(f"/#refs#/image{place}", data=pixels.T).ref
            cell = file.create_dataset(f"/#refs#/cell{place}", (1, 1), reference)
            cell[0, 0] = file.create_dataset(f"/#refs#/mask{place}", data=truth.T).ref
            truths[place, 0] = cell.ref
    return load_dataset("imagenet_seg", "all", tmp_path / "gtsegs_ijcv.mat")


def test_images_of_one_file_go_the_whole_way(tmp_path: Path, matlab: Dataset) -> None:
    names = {"config": {}, "class_names": matlab.class_names}
    seeds = Stage.open(tmp_path / "run/seeds", kind="seeds", suffix=".npz", **names).folder
    labels = Stage.open(tmp_path / "run/affinity_labels", kind="affinity_labels", suffix=".png", **names).folder
    counts = write_seeds(matlab.samples, seeds, flat_maps, group=2, method="flat", remedy="")
    assert counts.failed == () and counts.images == 2
    assert label_images(matlab.samples, seeds, labels).images == 2
    assert read_mask(labels, "0001").shape == (40, 56)
    examples = Examples([Example(s, labels / f"{s.id}.png") for s in matlab], AugmentConfig(crop=32), seed=0)
    assert examples[0, 1][0].shape == (3, 32, 32)
    entries = evaluate_run(tmp_path / "run", matlab)
    assert {entry.stage for entry in entries} == {"seeds", "affinity_labels"} and entries[0].images == 2
    block = draw_block(matlab.samples[0], matlab, {"run": tmp_path / "run"}, ["seeds"], alpha=8)
    assert block.truth is not None and "object" in block.photograph.alt


def test_images_of_one_file_train(matlab: Dataset) -> None:
    from cnnseg.examples import Examples as CnnExamples
    from cnnseg.settings import TrainConfig
    from vitseg.classifier import _Crops
    from vitseg.settings import ClassifierConfig

    image, mask, labels = CnnExamples(matlab, matlab.samples, TrainConfig(crop=32))[0, 0, 1]
    assert image.shape == (3, 32, 32) and set(mask.unique().tolist()) <= {0, 1, 255} and labels.shape == (1,)
    image, labels = _Crops(matlab.samples, matlab.labels(), ClassifierConfig())[0, 1, 32]
    assert image.shape == (3, 32, 32) and torch.equal(labels, torch.ones(1))

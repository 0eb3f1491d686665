"""The segmentation test: against a slow loop straight from its protocol, and from the command line."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score
from small_run import finish, make_data
from test_perturbation_test import METHODS, SIDE, bilinear, blobs, explainer, judged, small_classifier
from torch import Tensor

import vitseg.tested
from vitseg.cli import app
from vitseg.explanation import explain
from vitseg.models import Classifier, save_classifier
from wsss.console import run
from wsss.data import Dataset, Sample, paired_folders
from wsss.entries import read_tests
from wsss.errors import InputError
from wsss.explanation_tests import evaluations, plots, segmentation
from wsss.explanation_tests.figures import read_results, segmentation_figures
from wsss.explanation_tests.tested import classify, squeeze, stack


def random_truths(count: int, seed: int = 0) -> np.ndarray:
    """Blobs of 0, 1 and 255."""
    rng = np.random.default_rng(seed)
    return rng.choice(np.array([0, 1, 255], np.uint8), (count, 8, 8), p=(0.5, 0.4, 0.1)).repeat(20, 1).repeat(20, 2)


def segment(
    classifier: Classifier, pixels: Tensor, truths: np.ndarray, ids: Sequence[str], method: str, batch_size: int = 16
) -> Generator[None, None, dict[str, np.ndarray]]:
    tested = judged(classifier)
    photographs = classify(tested, pixels, ids, batch_size=batch_size)
    return segmentation.segment(tested, photographs, truths, explainer(method), batch_size=batch_size)


@pytest.mark.parametrize("method", METHODS)
def test_against_the_protocol(method: str) -> None:
    classifier, truths = small_classifier(), random_truths(5)
    pixels = stack([squeeze(image, (SIDE, SIDE)) for image in blobs(5)])
    steps, found = finish(segment(classifier, pixels, truths, list("abcde"), method, batch_size=2))
    assert steps == 5
    for place, truth in enumerate(truths):
        picture = pixels[place].permute(1, 2, 0).double().numpy() / 255
        normal = (picture - np.array(classifier.mean)) / np.array(classifier.std)
        inputs = torch.from_numpy(normal.transpose(2, 0, 1)[None].copy()).float()
        with torch.no_grad():
            predicted = int(classifier.model(inputs).argmax())
        small = explain(classifier.model, inputs, predicted, method).maps[0].double().numpy()
        full = bilinear(small, SIDE)
        scaled = (full - full.min()) / (full.max() - full.min())
        kept = truth != 255
        chosen, right = (scaled > scaled.mean())[kept], truth[kept] == 1
        assert found["predicted"][place] == predicted
        difference = np.abs(found["confusion"][place] - confusion_matrix(right, chosen))
        assert difference.sum() <= 4  # of 25,600 pixels: those at the very mean
        both = np.concatenate([1 - scaled[kept], scaled[kept]])
        assert found["ap"][place] == pytest.approx(
            average_precision_score(np.concatenate([~right, right]), both), abs=1e-5
        )
        assert found["f1"][place] == pytest.approx(f1_score(right, chosen), abs=1e-3)
        grid = (small - small.min()) / (small.max() - small.min())
        np.testing.assert_allclose(found["maps"][place], grid, atol=1e-3)
    assert found["maps"].dtype == np.float16 and found["confusion"].dtype == np.int64
    assert len(set(found["predicted"].tolist())) > 1


def test_score_of_an_image_by_hand() -> None:
    heat = np.array([[0.0, 0.2, 0.9], [1.0, 0.1, 0.2]], np.float32)  # mean 0.4
    truth = np.array([[0, 1, 1], [0, 255, 0]], np.uint8)
    score = segmentation.score_image(heat, truth)
    assert score.confusion.tolist() == [[2, 1], [1, 1]]  # truth, prediction
    assert score.f1 == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    # ten scores, five are right: one of the two 1, then 0.9, one of the two 0.8, one of the two 0.2, one of the two 0
    assert score.ap == pytest.approx((1 / 2 + 2 / 3 + 3 / 5 + 4 / 7 + 5 / 10) / 5, abs=1e-6)
    hidden = segmentation.score_image(heat, np.full((2, 3), 255, np.uint8))
    assert hidden.confusion.sum() == 0 and np.isnan(hidden.f1) and np.isnan(hidden.ap)


def test_a_constant_map_is_background() -> None:
    truth = np.array([[0, 1, 1], [0, 255, 0]], np.uint8)
    score = segmentation.score_image(np.zeros((2, 3), np.float32), truth)
    assert score.confusion.tolist() == [[3, 0], [2, 0]]
    kept = truth[truth != 255] == 1
    assert score.ap == average_precision_score(np.concatenate([~kept, kept]), [1.0] * 5 + [0.0] * 5)


def test_the_mean_is_that_of_the_whole_map() -> None:
    heat = np.array([[1.0, 0.3, 0.2, 0.2]], np.float32)  # mean 0.425, without the first 0.233
    score = segmentation.score_image(heat, np.array([[255, 1, 0, 0]], np.uint8))
    assert score.confusion.tolist() == [[2, 0], [1, 0]]


def test_enlarged_and_scaled() -> None:
    maps = torch.tensor([[[2.0, 4], [6, -2]], [[5, 5], [5, 5]]])
    found = segmentation.enlarge(maps, (4, 4)).numpy()
    expected = bilinear(maps[0].numpy(), 4)
    np.testing.assert_allclose(found[0], (expected - expected.min()) / np.ptp(expected), atol=1e-6)
    assert not found[1].any()
    assert not segmentation.foreground(found[1]).any()


def pair(folder: Path, name: str, size: tuple[int, int], mask: np.ndarray) -> None:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    blobs(1, size)[0].save(folder / f"images/{name}.png")
    Image.fromarray(mask.astype(np.uint8)).save(folder / f"masks/{name}.png")


def test_pairs_at_the_size_of_the_model(tmp_path: Path) -> None:
    mask = np.zeros((6, 9))
    mask[:3, :3], mask[3:, 6:] = 7, 255
    pair(tmp_path, "a", (6, 9), mask)
    dataset = paired_folders(tmp_path / "images", tmp_path / "masks")
    image, truth = segmentation.load_pair(dataset, dataset.samples[0], (12, 18))
    assert image.shape == (12, 18, 3)
    np.testing.assert_array_equal(truth, np.where(mask == 7, 1, mask).repeat(2, 0).repeat(2, 1))
    pair(tmp_path, "b", (6, 9), mask[:, :8])
    dataset = paired_folders(tmp_path / "images", tmp_path / "masks")
    with pytest.raises(InputError, match=r"mask .*b\.png: 8 x 6 pixels, its image 9 x 6"):
        segmentation.load_pair(dataset, dataset.samples[1], (12, 18))


def test_only_the_class_of_the_sample_is_foreground(tmp_path: Path) -> None:
    pair(tmp_path, "a", (4, 4), np.array([[0, 1, 2, 255]] * 4))
    sample = Sample("a", tmp_path / "images/a.png", (2,), tmp_path / "masks/a.png")
    dataset = Dataset("own", "val", tmp_path, ("cat", "dog"), (sample,), np.arange(256).astype(np.uint8))
    assert segmentation.load_pair(dataset, sample, (4, 4))[1][0].tolist() == [0, 255, 1, 255]


def test_a_map_that_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = vitseg.tested.explain

    def broken(*rest: object, **options: object):
        explanation = real(*rest, **options)
        explanation.maps[1, 0, 0] = torch.inf
        return explanation

    monkeypatch.setattr(vitseg.tested, "explain", broken)
    pixels = stack([squeeze(image, (SIDE, SIDE)) for image in blobs(3)])
    with pytest.raises(InputError, match="image b: the rollout map is not finite; try `precision` float64"):
        finish(segment(small_classifier(), pixels, random_truths(3), list("abc"), "rollout"))


def test_gallery_shows_the_best_and_the_worst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluations, "PART", 2)
    for place in range(5):
        mask = np.zeros((20, 20))
        mask[:10] = 1
        pair(tmp_path, f"i{place}", (20, 20), mask)
    dataset = paired_folders(tmp_path / "images", tmp_path / "masks")
    found = np.array([3, 9, 1, 5, 0])
    confusion = np.stack([np.array([[100, 0], [10 - hits, hits]]) for hits in found])
    iou = 100 * (found / 10 + 100 / (110 - found)) / 2  # of the foreground and of the background
    for part in range(3):
        samples = dataset.samples[2 * part : 2 * part + 2]
        maps = np.stack([np.full((4, 4), int(sample.id[1]) / 10, np.float16) for sample in samples])
        evaluations.write_part(tmp_path / f"part-{part:05d}.npz", samples, {"maps": maps})
    assert [evaluations.read_map(tmp_path, place)[0, 0] for place in range(5)] == pytest.approx(
        [0, 0.1, 0.2, 0.3, 0.4], abs=1e-3
    )
    drawn: list[str] = []
    real = plots.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        plots.ImageDraw.ImageDraw,
        "text",
        lambda self, at, text, *rest: (drawn.append(text), real(self, at, text, *rest)),
    )
    ids = np.array([sample.id for sample in dataset])
    path = plots.write_gallery({"ids": ids, "confusion": confusion}, dataset, tmp_path, (20, 20), "title", rows=2)
    assert [text.split("   ")[0] for text in drawn if "IoU" in text] == ["i1.png", "i3.png", "i4.png", "i2.png"]
    assert f"i1.png   mIoU {iou[1]:.1f}" in drawn
    with Image.open(path) as picture:
        picture.load()
    drawn.clear()
    one = {"ids": ids[:1], "confusion": confusion[:1]}
    plots.write_gallery(one, dataset, tmp_path, (20, 20), "a single image")
    assert [text for text in drawn if "IoU" in text] == [f"i0.png   mIoU {iou[0]:.1f}"]


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_data(tmp_path / "data")
    save_classifier(small_classifier(), tmp_path / "runs/trained/classifier/classifier.safetensors")
    return tmp_path


@pytest.fixture
def command(place: Path) -> Callable[..., int]:
    def call(*options: object) -> int:
        given = ["segmentation-test", "--runs", place / "runs", "--device", "cpu", *options]
        if "--classifier" not in options:
            given += ["--classifier", "trained"]
        return run(app, [str(word) for word in given])

    return call


def test_command(place: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--data", place / "data/data.yaml", "--split", "val")
    assert command(*data, "--methods", *METHODS) == 0
    said = capsys.readouterr().out
    assert "protocol: 3 images; images and masks squeezed to 160 x 160" in said and "minus rollout" in said
    for method in METHODS:
        folder = place / f"runs/trained.{method}"
        (entry,) = read_tests(folder)
        results = read_results(folder / entry.folder)
        figures = segmentation_figures(results)
        assert (entry.test, entry.data, entry.split, entry.images) == ("segmentation", "tiny", "val", 3)
        assert (entry.figures, entry.intervals, entry.curves) == (figures.values, figures.intervals, {})
        assert set(results) == {"ids", "predicted", "confusion", "ap", "f1", "maps"}
        assert results["ids"].tolist() == ["a", "b", "d"]
        with Image.open(folder / entry.folder / "gallery.jpg") as picture:
            picture.load()
    made = {path: path.stat().st_mtime_ns for path in place.rglob("part-*.npz")}
    assert command(*data, "--methods", *METHODS) == 0
    assert "6 of 6 results (2 methods) are there already" in capsys.readouterr().out
    assert made == {path: path.stat().st_mtime_ns for path in place.rglob("part-*.npz")}
    assert command(*data, "--methods", "rollout", "--classes", "cat", "--name", "cats") == 0
    assert read_results(place / "runs/cats/segmentation/tiny_val")["ids"].tolist() == ["a", "d"]


def test_a_folder_of_images_and_one_of_masks(place: Path, command: Callable[..., int]) -> None:
    for name in "ab":
        pair(place, name, (30, 40), np.eye(30, 40) * 9)
    folders = ("--images", place / "images", "--masks", place / "masks")
    assert command(*folders, "--methods", "rollout") == 0
    (entry,) = read_tests(place / "runs/trained.rollout")
    assert (entry.data, entry.split, entry.images) == ("images", "all", 2)
    assert read_results(place / "runs/trained.rollout" / entry.folder)["confusion"].sum(axis=(0, 2)).min() > 0


def test_table_3_in_one_command(tmp_path: Path) -> None:
    """The configuration itself, on a stand-in: a file as the real one is laid out, another model."""
    import timm

    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "w.safetensors")
    with h5py.File(tmp_path / "gtsegs_ijcv.mat", "w") as file:
        images = file.create_dataset("value/img", (2, 1), h5py.ref_dtype)
        truths = file.create_dataset("value/gt", (2, 1), h5py.ref_dtype)
        for place, image in enumerate(blobs(2, (20, 30))):
            pixels = np.asarray(image).transpose(2, 1, 0)  # (3, W, H)
            images[place, 0] = file.create_dataset(f"img{place}", data=pixels).ref
            mask = file.create_dataset(f"mask{place}", data=(pixels[0] > 100).astype(np.uint8))
            cell = file.create_dataset(f"cell{place}", (1, 1), h5py.ref_dtype)
            cell[0, 0] = mask.ref
            truths[place, 0] = cell.ref
    words = ["segmentation-test", "--config", "vitseg/table3", "--root", tmp_path, "--device", "cpu"]
    words += ["--architecture", "test_vit", "--weights", tmp_path / "w.safetensors", "--runs", tmp_path / "runs"]
    assert run(app, [str(word) for word in words]) == 0
    found = [entry for folder in (tmp_path / "runs").iterdir() for entry in read_tests(folder)]
    methods = {"rollout", "raw_attention", "gradcam", "lrp", "partial_lrp", "transformer_attribution"}
    assert {entry.method for entry in found} == methods and {entry.images for entry in found} == {2}


def test_mistakes_take_one_line(place: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*options: object) -> str:
        capsys.readouterr()
        assert command(*options) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")

    data = ("--data", place / "data/data.yaml", "--split", "val")
    pair(place, "a", (10, 10), np.ones((10, 10)))
    folders = ("--images", place / "images", "--masks", place / "masks")
    assert "--data or --images" in refused() and "--data or --images" in refused(*data, *folders)
    assert "needs --masks" in refused(*folders[:2])
    assert "goes with --images" in refused(*data, "--masks", place / "masks")
    assert "--split: goes with --data" in refused(*folders, "--split", "val")
    assert "--classes: goes with --data" in refused(*folders, "--classes", "cat")
    assert "needs --split" in refused(*data[:2])
    assert "--classes: names none" in refused(*data, "--classes")
    assert "class 'cow' is not in data set tiny" in refused(*data, "--classes", "cow")
    assert "0 with a mask" in refused(*data[:2], "--split", "own")
    assert "method 'lrpp' is unknown" in refused(*data, "--methods", "lrpp")
    assert "--name x: a run holds one method" in refused(*data, "--name", "x")
    assert "--limit" in refused(*data, "--limit", 0)
    assert "--classifier" in refused(*data, "--architecture", "test_vit")
    pair(place, "b", (10, 10), np.ones((10, 9)))
    assert "b.png: 9 x 10 pixels, its image 10 x 10" in refused(*folders, "--methods", "rollout")
    (place / "masks/b.png").unlink()
    assert "b.png: no mask" in refused(*folders, "--methods", "rollout")

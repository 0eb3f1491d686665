"""The evolution page: colours as defined, the right steps, figures as computed by hand, all of it in one file."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from cyclopts import App
from PIL import Image
from small_run import OWN, VAL, make_data
from torch.nn import functional as F

from cnnseg.pictures import choose_steps, draw_signed, resized, segmentation, softmax
from cnnseg.seed_commands import evolution
from cnnseg.snapshots import read_snapshot
from wsss.console import LISTS, run
from wsss.data import load_dataset
from wsss.errors import InputError
from wsss.overlay import signed_picture

STEPS = (0, 10, 20, 40)
MIOU = {10: 30.0, 20: 45.5, 40: 41.0}
FIGURE = re.compile(r'<img src="data:image/(?:jpeg|png);base64,([^"]+)" alt="([^"]+)"')


def test_signed_colours() -> None:
    values = np.linspace(-3, 3, 601).reshape(1, -1)
    found = signed_picture(values, 2)
    expected = matplotlib.colormaps["bwr"](values / 4 + 0.5)[..., :3] * 255
    assert found.dtype == np.uint8 and np.abs(found - expected).max() < 2.5  # matplotlib has 256 colours
    assert found[0, 300].tolist() == [255, 255, 255] and found[0, 250].tolist() == [191, 191, 255]
    assert (found[:, :101] == (0, 0, 255)).all() and (found[:, -101:] == (255, 0, 0)).all()
    np.testing.assert_array_equal(signed_picture(-values, 2), found[..., ::-1])
    assert (signed_picture(np.zeros((2, 3)), 0) == 255).all()
    for wrong, limit in ((np.full((2, 2), np.nan), 1), (values[0], 1), (values, -1), (values, np.inf)):
        with pytest.raises(ValueError, match="finite"):
            signed_picture(wrong, limit)


def test_scale_of_a_signed_map() -> None:
    values = np.zeros((20, 50), np.float32)
    values[:10] = 0.25
    values[0, :4] = -8  # 4 of 1000 pixels: beyond the percentile
    drawn, scale = draw_signed(values, (20, 50))
    assert scale == 0.25 and (drawn[0, :4] == (0, 0, 255)).all() and (drawn[5] == (255, 0, 0)).all()
    values[:10] = 0
    values[0, :4] = -8
    drawn, scale = draw_signed(values, (20, 50))  # nearly empty: the percentile is 0
    assert scale == 8 and drawn[0, 0].tolist() == [0, 0, 255] and (drawn[1:] == 255).all()
    drawn, scale = draw_signed(values * 0, (20, 50))
    assert scale == 0 and (drawn == 255).all()


def test_softmax_and_segmentation() -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(0, 300, (4, 7, 9)).astype(np.float32)
    scores = torch.from_numpy(maps)
    np.testing.assert_allclose(softmax(maps), scores.softmax(0), atol=1e-6)
    enlarged = F.interpolate(scores[None], (20, 31), mode="bilinear", align_corners=False)[0]
    found = segmentation(maps, (20, 31))
    assert found.dtype == np.uint8 and len(np.unique(found)) == 4
    np.testing.assert_array_equal(found, enlarged.argmax(0))
    shrunk = resized(rng.random((40, 60)).astype(np.float32), (10, 15))
    assert shrunk.shape == (10, 15) and shrunk.std() < 0.11  # averaged: 0.29 / 4, but 0.29 if pixels were picked


@pytest.mark.parametrize(
    ("steps", "miou", "count", "expected", "best"),
    [
        (range(0, 9000, 1000), {1000: 20, 4000: 41.5, 8000: 40}, 4, (0, 1000, 2000, 4000), 4000),
        (range(0, 9000, 1000), {}, 3, (0, 1000, 8000), None),
        (range(0, 9000, 1000), {}, 2, (0, 8000), None),
        (range(0, 9000, 1000), {0: 50, 4000: 41.5}, 3, (0, 1000, 8000), 0),  # never better than before the first step
        (range(0, 101, 1), {step: step for step in range(101)}, 6, (0, 1, 3, 10, 32, 100), 100),
        ((20, 0, 10), {10: 3, 20: 3}, 6, (0, 10), 10),
        ((0,), {0: 5}, 6, (0,), 0),
        ((500, 1000), {}, 2, (500, 1000), None),
    ],
)
def test_choice_of_steps(
    steps: range, miou: dict[int, float], count: int, expected: tuple[int, ...], best: int | None
) -> None:
    shown = choose_steps(list(steps), miou, count)
    assert shown.steps == expected and shown.best == best


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A run with snapshots of three val images (c: not at step 10) and one other; the scores become the truth."""
    data = make_data(tmp_path / "data")
    folder = tmp_path / "runs/mine/network"
    rng = np.random.default_rng(1)
    for split, ids in (("val", ("a", "b", "c")), ("own", ("x",))):
        for sample in load_dataset(data, split):
            if sample.id not in ids:
                continue
            height, width = np.asarray(Image.open(sample.image_path)).shape[:2]
            truth = load_dataset(data, split).load_mask(sample) if sample.mask_path else np.ones((height, width))
            target = np.stack([np.where(truth == c, 100.0, -100.0) for c in range(3)])
            for step in STEPS:
                if (sample.id, step) == ("c", 10):
                    continue
                maps = rng.normal(0, 1e-3, target.shape) + target * (step / 40) * (1 if step != 10 else -1)
                path = folder / "snapshots" / str(step) / f"{sample.id}.npz"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez_compressed(path, maps=maps.astype(np.float16))
    lines = [json.dumps({"step": step, "miou": MIOU.get(step)}) for step in STEPS]
    (folder / "history.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def show(place: Path, *options: object) -> int:
    app = App(name="cnnseg", default_parameter=LISTS)
    app.command(evolution)
    common = {
        "--network": "mine",
        "--data": place / "data/data.yaml",
        "--split": "val",
        "--runs": place / "runs",
        "--out": place / "page.html",
    }
    for option, value in common.items():
        if option not in options:
            options += (option, value)
    return run(app, ["evolution", *map(str, options)])


def pictures(page: str) -> dict[str, np.ndarray]:
    """Alternative text -> the picture that is in the page."""
    found = {}
    for code, alt in FIGURE.findall(page):
        with Image.open(io.BytesIO(base64.b64decode(code))) as image:
            found[alt] = np.asarray(image.convert("RGB")).astype(int)
    return found


def test_the_page(training: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(training) == 0
    assert "page.html: 3 images" in capsys.readouterr().out
    page = (training / "page.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import""", page)  # nothing outside the file
    found = pictures(page)
    # a, b: photograph, truth, 3 segmentations, 3 heat-maps; c has two classes, and step 10 is missing
    assert len(found) == 2 * 8 + 8 and page.count(">not made<") == 3
    assert "step 40" not in page and "Highest mIoU of the training: step 20" in page
    assert re.search(r"mIoU on the validation split.*?<td[^>]*></td><td[^>]*>30.0</td><td[^>]*>45.5</td>", page)

    (raw,) = (alt for alt in found if alt.startswith("Signed heat-map of cat of image a at step 0"))
    assert found[raw].std() > 30 and found[raw][..., 0].mean() == pytest.approx(found[raw][..., 2].mean(), rel=0.1)
    dataset = load_dataset(training / "data/data.yaml", "val")
    for sample in dataset.samples[:3]:
        truth = dataset.load_mask(sample)
        name = dataset.class_names[sample.classes[0] - 1]
        late = found[f"Probability of {name} of image {sample.id} at step 20"]
        assert late.shape == (*truth.shape, 3)
        colours = {sample.classes[0]: (255, 0, 0), 255: (255, 170, 170)}  # ignored: all scores equal, 1/3 for each
        for value in np.unique(truth):
            assert np.abs(late[truth == value] - colours.get(value, (255, 255, 255))).max() < 3
        # all counted pixels are right at step 20; at step 10, wrong ones, but for image c that has none
        assert f"Segmentation of image {sample.id} at step 20, IoU 100.0" in found
        wrong = [alt for alt in found if alt.startswith(f"Segmentation of image {sample.id} at step 10, IoU 0.0")]
        assert len(wrong) == (sample.id != "c")


def test_maps_are_as_strong_as_on_crops_of_the_training(training: Path) -> None:
    """Scores a thousandth of themselves, to be multiplied by a thousand, give the same pictures of probabilities."""
    assert show(training) == 0
    before = pictures((training / "page.html").read_text())
    path = training / "runs/mine/network/snapshots/20/a.npz"
    maps = np.load(path)["maps"].astype(np.float32) / 1000
    np.savez_compressed(path, maps=maps.astype(np.float16), strength=np.float32(1000))
    assert show(training) == 0
    found = pictures((training / "page.html").read_text())
    assert found.keys() == before.keys()
    for alt, picture in found.items():
        assert np.abs(picture - before[alt]).max() < 3, alt
    np.savez_compressed(path, maps=maps.astype(np.float16))
    assert show(training) == 0
    weak = pictures((training / "page.html").read_text())["Probability of cat of image a at step 20"]
    assert np.abs(weak - before["Probability of cat of image a at step 20"]).max() > 50
    np.savez_compressed(path, maps=maps.astype(np.float16), strength=np.float32(0))
    with pytest.raises(InputError, match="expected a strength above 0, got 0"):
        read_snapshot(path, 3)


def test_images_and_columns(training: Path) -> None:
    assert show(training, "--images", "b", "--columns", "2") == 0
    page = (training / "page.html").read_text()
    assert page.count('<section class="image"') == 1 and 'aria-label="Image b"' in page
    assert "step 20" in page and "step 10" not in page
    assert show(training, "--split", "own") == 0  # images without masks
    page = (training / "page.html").read_text()
    assert page.count('<section class="image"') == 1 and "no ground truth" in page and "IoU 100" not in page


def test_without_history_up_to_the_last_step(training: Path) -> None:
    (training / "runs/mine/network/history.jsonl").write_text('{"step": 0, "miou": null}\n')
    assert show(training) == 0
    page = (training / "page.html").read_text()
    assert "step 40" in page and "Highest mIoU" not in page and "mIoU on the validation" not in page


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--columns", 1), "--columns 1: expected at least 2"),
        (("--out", "page.pdf"), "--out page.pdf: expected a name that ends in .html"),
        (("--images", "d"), "--images d: no snapshots of it, or not in split val of tiny; known: a, b, c"),
        (("--images", "x"), "--images x: no snapshots of it"),
        (("--network", "yours"), "yours: no such run in"),
    ],
    ids=str,
)
def test_bad_options(
    training: Path, options: tuple[object, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(training, *options) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and line in error
    assert not (training / "page.html").exists()


def test_bad_snapshots(training: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = training / "runs/mine/network/snapshots"
    path = folder / "20/a.npz"
    whole = path.read_bytes()

    def refused() -> str:
        assert show(training) == 2
        (error,) = capsys.readouterr().err.splitlines()
        return error

    path.write_bytes(whole[:200])
    assert f"{path}: no snapshot of a training, or half-written" in refused()
    np.savez(path, scores=np.zeros(3))
    assert f"{path}: no snapshot of a training" in refused()
    for maps, fault in (
        (np.zeros((3, 4)), r"expected finite scores \(classes, h, w\), got \(3, 4\)"),
        (np.full((3, 4, 4), np.nan), "finite"),
        (np.zeros((4, 4, 4)), "expected scores of 3 classes.*got 4"),
    ):
        np.savez(path, maps=maps)
        with pytest.raises(InputError, match=fault):
            read_snapshot(path, 3)
    path.write_bytes(whole)
    maps, strength = read_snapshot(path, 3)
    assert maps.dtype == np.float32 and strength == 1

    assert show(training, "--split", "train") == 2  # the folder layout has no such split
    for image_id in (*VAL, *OWN):
        for step in STEPS:
            if image_id != "x":
                (folder / str(step) / f"{image_id}.npz").unlink(missing_ok=True)
    capsys.readouterr()
    assert "--split val: none of its images is among the snapshots" in refused()
    (folder / "0").rename(folder / "first")
    for step in STEPS[1:]:
        (folder / str(step) / "x.npz").unlink()
        (folder / str(step)).rmdir()
    assert "no snapshots; `cnnseg train-unrolled --snapshots ID" in refused()

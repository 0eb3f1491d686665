"""Networks put to use: photographs of any size, tiles, views, given labels, masks for the next round, export."""

from __future__ import annotations

import csv
import json
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from small_run import make_data, make_run
from torch import Tensor, nn

import cnnseg
from cnnseg import cli
from cnnseg.evaluation import predict
from cnnseg.models import Network, create_segmentation, load_network, save_network
from cnnseg.scores import evaluate_checkpoint, is_evaluation_of
from cnnseg.segmentation import export as exporting
from cnnseg.segmentation.export import Deployed, export_onnx, export_small
from cnnseg.segmentation.labelling import write_pseudo_masks
from cnnseg.segmentation.photographs import find_photographs, segment_photographs
from cnnseg.segmentation.pseudo_masks import class_probabilities, with_masks_of
from cnnseg.segmentation.segmenting import Segmentation, seen_size, segment_pictures, strongest
from cnnseg.segmentation.settings import SegmentationConfig, SegmentConfig, ViewsConfig
from cnnseg.segmentation.tiles import cut
from cnnseg.unroll import unroll
from cnnseg.views import look
from wsss.console import run
from wsss.data import load_dataset
from wsss.entries import read_metrics
from wsss.errors import InputError
from wsss.evaluate import evaluate_run
from wsss.report import write_report
from wsss.report.provenance import prices
from wsss.report.tables import stage_title
from wsss.store import read_mask, read_seed

NAMES = ("cat", "dog")
TINY = SegmentationConfig(decoder="fpn", encoder="mobilenetv3_small_050", weights="none")


class Near(nn.Module):
    """Three 3x3 convolutions, one of them of stride 2: a pixel's scores depend on those within 8 of it."""

    classifies, segments, multiple = True, True, 2

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU())
        self.head, self.scores = nn.Conv2d(6, 3, 3, 1, 1), nn.Linear(6, 3)

    def forward(self, images: Tensor, decode: int | None = None) -> tuple[Tensor, Tensor | None]:
        features = self.encoder(images)
        logits = self.scores(features.mean((2, 3)))
        if decode == 0:
            return logits, None
        maps = self.head(features[:decode]).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return logits, maps[..., : images.shape[2], : images.shape[3]]


def near(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    module = Near().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return Network(module, "segmentation", "near", NAMES, (0.5,) * 3, (0.25,) * 3, decoder="none", masks=3)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth patches of colour, so that masks have regions."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    return Image.fromarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def plain_mask(network: Network, image: Image.Image, size: tuple[int, int] | None = None) -> np.ndarray:
    """The mask by the shortest way: one forward pass, torch's enlargement, argmax."""
    native = (image.height, image.width)
    with torch.inference_mode():
        maps = network.module(network.prepare(image, size or native)[None])[1]
        return nn.functional.interpolate(maps, native, mode="bilinear", align_corners=False)[0].argmax(0).numpy()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run "net" of a network at random, in its folder of runs."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("runs") / "net/network/last.safetensors"
    network = create_segmentation(TINY, NAMES, "masks of one")
    nn.init.normal_(network.module.segmentation_head[0].weight, std=3.0)
    save_network(network, path)
    return path


# --- tiles ---


@pytest.mark.parametrize("multiple", [1, 4, 32])
def test_tiles_share_out_an_axis_without_gap(multiple: int) -> None:
    for side, overlap in ((64, 0), (64, 16), (100, 50), (65, 31)):
        for extent in (1, 63, 64, 65, 80, 100, 128, 129, 500, 1001):
            tiles = cut(extent, side, overlap, multiple)
            assert [t.first for t in tiles] == [0, *(t.last for t in tiles[:-1])] and tiles[-1].last == extent
            assert tiles[0].start == 0 and tiles[-1].end == extent
            for one in tiles:
                assert one.start <= one.first < one.last <= one.end <= extent
                assert one.start % multiple == 0 and one.end - one.start <= max(
                    side, extent if extent <= side else side
                )
            for one, following in pairwise(tiles):
                margin = (min(overlap, one.end - following.start)) // 2
                assert one.end - one.last >= margin and following.first - following.start >= margin


@pytest.mark.parametrize(("tile", "overlap"), [(64, 32), (96, 20), (70, 35)])
def test_tiles_change_nothing_where_they_overlap_by_twice_the_reach(tile: int, overlap: int) -> None:
    network, image = near(), picture(150, 211)
    (mask,) = segment_pictures(network, [image], SegmentConfig(size=0, tile=tile, overlap=overlap), batch_size=3)
    np.testing.assert_array_equal(mask, plain_mask(network, image))
    assert len(np.unique(mask)) > 1


def test_tiles_without_overlap_do(tmp_path: Path) -> None:
    network, image = near(), picture(150, 211)
    (mask,) = segment_pictures(network, [image], SegmentConfig(size=0, tile=64, overlap=0))
    differ = mask != plain_mask(network, image)
    assert 0 < differ.mean() < 0.2


def test_an_overlap_of_more_than_half_a_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap 40: expected at most half of a tile, 32"):
        SegmentConfig(tile=64, overlap=40)


# --- photographs ---


def test_strongest_map_is_that_of_torch() -> None:
    maps = torch.randn(3, 7, 9)
    whole = nn.functional.interpolate(maps[None], (31, 40), mode="bilinear", align_corners=False)[0]
    np.testing.assert_array_equal(strongest(maps, (31, 40)), whole.argmax(0).numpy())
    np.testing.assert_array_equal(strongest(maps, (7, 9)), maps.argmax(0).numpy())
    np.testing.assert_array_equal(strongest(maps, (31, 40), [0, 2]), 2 * whole[[0, 2]].argmax(0).numpy())


def test_large_photographs_are_shrunk_and_small_ones_are_not() -> None:
    assert seen_size((300, 400), SegmentConfig(size=512)) == (300, 400)
    assert seen_size((3000, 4000), SegmentConfig(size=512)) == (443, 591)
    assert seen_size((3000, 4000), SegmentConfig(size=0)) == (3000, 4000)
    network, image = near(), picture(120, 180)
    seen = seen_size((120, 180), SegmentConfig(size=64))
    (mask,) = segment_pictures(network, [image], SegmentConfig(size=64))
    np.testing.assert_array_equal(mask, plain_mask(network, image, seen))


def test_a_batch_is_as_one_by_one() -> None:
    network = near()
    images = [picture(40, 60, k) for k in range(5)] + [picture(60, 40, 9)]
    alone = [next(iter(segment_pictures(network, [image]))) for image in images]
    for batch_size in (1, 2, 5):
        for one, other in zip(segment_pictures(network, images, batch_size=batch_size), alone, strict=True):
            np.testing.assert_array_equal(one, other)


def test_several_views_are_averaged_as_probabilities() -> None:
    network, image = near(), picture(41, 60)
    views = ViewsConfig(scales=(0.5, 1.0), flip=True)
    total, logits = torch.zeros(1, 3, 41, 60), torch.zeros(1, 3)
    with torch.inference_mode():
        for height, width in ((20, 30), (41, 60)):
            for mirrored in (False, True):
                inputs = network.prepare(image, (height, width))[None]
                scores, maps = network.module(inputs.flip(-1) if mirrored else inputs)
                likely = nn.functional.interpolate(maps.softmax(1), (41, 60), mode="bilinear", align_corners=False)
                total += (likely.flip(-1) if mirrored else likely) / 4
                logits += scores / 4
        found_logits, found = look(network, [image], (41, 60), views)
    torch.testing.assert_close(found, total)
    torch.testing.assert_close(found_logits, logits)
    plain = look(network, [image], (41, 60))[1]
    assert not torch.allclose(plain.softmax(1), found)


def test_a_gate_keeps_out_what_the_whole_image_does_not_show(data: Path) -> None:
    network, dataset = near(), load_dataset(data, "val")
    images = [picture(90, 90, k) for k in range(4)]
    with torch.inference_mode():
        likely = [network.module(network.prepare(image, (90, 90))[None])[0][0].sigmoid() for image in images]
        shown = [network.module(network.prepare(dataset.load_image(s), dataset.image_size(s))[None]) for s in dataset]
    gate = float(torch.stack(likely)[:, 1].median()) + 1e-4
    kinds = set()
    for tile in (1024, 64):
        found = segment_pictures(network, images, SegmentConfig(gate=gate, size=0, tile=tile, overlap=32))
        for mask, probability, image in zip(found, likely, images, strict=True):
            allowed = [0, *(c for c in (1, 2) if probability[c] >= gate)]
            (told,) = segment_pictures(network, [image], classes=allowed[1:])
            np.testing.assert_array_equal(mask, told)
            kinds.add(len(allowed))
    assert len(kinds) > 1
    gate = float(torch.stack([logits[0].sigmoid() for logits, _ in shown])[:, 1].median()) + 1e-4
    for one in predict(network, dataset, dataset.samples, views=ViewsConfig(gate=gate)):
        logits, maps = shown[[sample.id for sample in dataset].index(one.sample.id)]
        allowed = [0, *(c for c in (1, 2) if logits[0, c].sigmoid() >= gate)]
        np.testing.assert_array_equal(one.mask, np.array(allowed)[maps[0, allowed].argmax(0).numpy()])
    told = predict(network, dataset, dataset.samples, views=ViewsConfig(gate=0.999999), labels_given=True)
    free = predict(network, dataset, dataset.samples, labels_given=True)
    for one, other in zip(told, free, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)  # labels are given, whatever the network thinks
    network.module.forward = lambda images, decode=None: (None, torch.zeros(len(images), 3, *images.shape[2:]))
    with pytest.raises(InputError, match=r"`gate` 0\.5: .* does not say which classes"):
        list(segment_pictures(network, images, SegmentConfig(gate=0.5)))


def test_from_python_in_every_form(checkpoint: Path, tmp_path: Path) -> None:
    image = picture(50, 70)
    image.save(tmp_path / "upright.png")
    turned = Image.fromarray(np.rot90(np.asarray(image)).copy())  # as a camera stores it that lay on its side
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    network = cnnseg.load_network("net", runs=checkpoint.parents[2], device="cpu")
    found = cnnseg.segment(network, image)
    assert isinstance(found, Segmentation) and found.mask.shape == (50, 70) and found.mask.dtype == np.uint8
    np.testing.assert_array_equal(found.mask, plain_mask(network, image))
    assert len(np.unique(found.mask)) > 1
    forms = [
        tmp_path / "upright.png",
        str(tmp_path / "turned.png"),
        np.asarray(image),
        Image.open(tmp_path / "turned.png"),
    ]
    for one in cnnseg.segment(network, forms):
        np.testing.assert_array_equal(one.mask, found.mask)
    np.testing.assert_array_equal(cnnseg.segment(checkpoint.parents[1], image).mask, found.mask)
    assert set(np.unique(cnnseg.segment(network, image, classes=["dog"]).mask)) <= {0, 2}
    assert list(found.shares) == ["background", "cat", "dog"] and sum(found.shares.values()) == pytest.approx(1)
    assert found.shares["cat"] == (found.mask == 1).mean()
    assert found.overlay(image).size == (70, 50)
    found.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path, "mask"), found.mask)
    for call, line in (
        (lambda: cnnseg.segment(network, image, classes=["cow"]), "class 'cow' is unknown"),
        (lambda: cnnseg.segment(network, image, sise=3), "no option 'sise'; did you mean 'size'"),
        (lambda: cnnseg.segment(network, image, tile=3), "tile: expected at least 64, got 3"),
        (lambda: cnnseg.segment(network, np.zeros((4, 4), np.uint8)), "expected uint8 RGB"),
        (lambda: cnnseg.segment(network, picture(20, 70)), "70 x 20 pixels .* stride of 32"),
        (lambda: cnnseg.load_network("net", runs=tmp_path), "`network` net: no such file"),
        (lambda: found.save(tmp_path / "mask.jpg"), "expected a name that ends in .png"),
        (lambda: found.overlay(picture(40, 40)), "a photograph of"),
    ):
        with pytest.raises(InputError, match=line):
            call()


def rows_of(table: Path) -> dict[str, dict[str, str]]:
    with table.open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_a_folder_of_photographs(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "trip", tmp_path / "trip/found"
    (folder / "beach").mkdir(parents=True)
    for number, name in enumerate(("one.png", "two.jpg", "beach/one.png", "big.png")):
        picture(40 + 30 * (number == 3), 64, number).save(folder / name)
    (folder / "broken.jpg").write_text("nothing")
    picture(10, 10).save(folder / "little.png")
    (folder / "notes.txt").write_text("no photograph")
    words = ["segment", str(folder), "--network", str(checkpoint), "--out", str(out), "--device", "cpu"]
    assert run(cli.app, words) == 2
    said = capsys.readouterr()
    assert "4 photographs segmented now" in said.out and said.err.splitlines()[-1].startswith(
        "error: 2 of 6 photographs"
    )
    assert "broken.jpg: cannot be read" in said.err and "little.png: 10 x 10 pixels" in said.err
    assert set(find_photographs([folder], out)) == {"one", "two", "beach_one", "big", "broken", "little"}
    picture(40, 40).save(out / "three.png")
    assert set(find_photographs([out], out)) == {"three"}  # of who has the results beside the photographs
    rows = rows_of(out / "shares.csv")
    assert set(rows) == {"one", "two", "beach_one", "big"}
    network = load_network(checkpoint)
    for name, row in rows.items():
        mask = plain_mask(network, Image.open(row["file"]))
        np.testing.assert_array_equal(read_mask(out / "masks", name), mask)
        assert (int(row["height"]), int(row["width"])) == mask.shape
        shares = [float(row[key]) for key in ("background", "cat", "dog")]
        np.testing.assert_allclose(shares, [(mask == c).mean() for c in range(3)], atol=1e-6)
        with Image.open(out / f"overlays/{name}.jpg") as overlay:
            assert overlay.size == mask.shape[::-1]


def test_photographs_go_on_where_they_were_stopped(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        picture(40, 48 + 16 * (number % 2), number).save(tmp_path / f"{number}.png")
    network, files = load_network(checkpoint), find_photographs([tmp_path], tmp_path / "out")
    whole = segment_photographs(network, checkpoint, files, tmp_path / "whole")
    assert whole.made == 5 and not whole.failed
    original, calls = network.module.forward, iter(range(2))

    def forward(*args: object, **keywords: object) -> object:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return original(*args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(network.module, "forward", forward)
        with pytest.raises(KeyboardInterrupt):
            segment_photographs(network, checkpoint, files, tmp_path / "out", batch_size=1)
    assert len(rows_of(tmp_path / "out/shares.csv")) == 2
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/masks").glob("*.png")}
    assert len(stamps) == 2
    assert segment_photographs(network, checkpoint, files, tmp_path / "out").made == 3
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    for path in (tmp_path / "whole").rglob("*"):
        if path.suffix in (".png", ".jpg", ".csv"):
            assert path.read_bytes() == (tmp_path / "out" / path.relative_to(tmp_path / "whole")).read_bytes()
    assert segment_photographs(network, checkpoint, files, tmp_path / "out").made == 0
    next((tmp_path / "out/overlays").glob("*.jpg")).unlink()
    picture(40, 48, 77).save(tmp_path / "4.png")  # newer than its mask
    assert segment_photographs(network, checkpoint, files, tmp_path / "out").made == 2


def test_bad_photographs_are_one_line(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "a/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(40, 40).save(tmp_path / name)
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    for paths, line in (
        (["nothing"], "nothing: no such file or folder"),
        (["empty"], "empty: no photographs in it"),
        (["a"], r"its mask would have the name of that of .*1\.png"),
        (["a/1.png", "b/1.png"], "its mask would have the name"),
    ):
        with pytest.raises(InputError, match=line):
            find_photographs([tmp_path / path for path in paths], out)
    network = load_network(checkpoint)
    segment_photographs(network, checkpoint, {"1": tmp_path / "a/1.png"}, out)
    assert segment_photographs(network, checkpoint, {"1": tmp_path / "b/1.png"}, out).made == 0  # the same, elsewhere
    picture(40, 48).save(tmp_path / "a/2.png")
    with pytest.raises(InputError, match=r"holds 1\.png of .*b/1\.png, not of .*a/2\.png"):
        segment_photographs(network, checkpoint, {"1": tmp_path / "a/2.png"}, out)
    with pytest.raises(InputError, match=r"config\.size was 512, is 0 now"):
        segment_photographs(network, checkpoint, {"1": tmp_path / "a/1.png"}, out, SegmentConfig(size=0))


# --- given labels, the next round, and the table ---


def test_given_labels_leave_no_other_class(data: Path) -> None:
    dataset, network = load_dataset(data, "val"), near()
    free = {one.sample.id: one for one in predict(network, dataset, dataset.samples, pixels=True)}
    told = {one.sample.id: one for one in predict(network, dataset, dataset.samples, labels_given=True, pixels=True)}
    several = ViewsConfig(scales=(1.0, 1.5))
    viewed = list(predict(network, dataset, dataset.samples, labels_given=True, pixels=True, views=several))
    changed = 0
    for sample in dataset:
        one, other = free[sample.id], told[sample.id]
        np.testing.assert_allclose(one.pixels.sum(0), 1, rtol=1e-5)
        allowed = [0, *sample.classes]
        restricted = one.pixels[allowed] / one.pixels[allowed].sum(0)
        np.testing.assert_allclose(other.pixels[allowed], restricted, atol=1e-5)
        np.testing.assert_array_equal(other.mask, np.array(allowed)[restricted.argmax(0)])
        changed += (one.mask != other.mask).sum()
    assert changed
    for one in viewed:
        assert set(np.unique(one.mask)) <= {0, *one.sample.classes}
        np.testing.assert_allclose(one.pixels.sum(0), 1, rtol=1e-5)


def test_evaluated_without_labels_and_with(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    dataset, runs = load_dataset(data, "val"), tmp_path / "runs"
    (runs / "net").mkdir(parents=True)
    (runs / "net/network").symlink_to(checkpoint.parent)
    found = {
        given: evaluate_checkpoint("net", dataset, runs=runs, labels_given=given, name=f"net{given:d}")
        for given in (0, 1)
    }
    for given, entry in found.items():
        (row,) = read_metrics(runs / f"net{given:d}")
        assert row.miou == entry["miou"] and row.learnt_from == "masks of one"
        assert row.network == "segmentation fpn mobilenetv3_small_050"
        assert ("no image-level labels given" in row.protocol) is not bool(given)
    assert found[0]["miou"] != found[1]["miou"] and found[1]["labels_given"] is True


def test_masks_for_the_next_round(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    dataset = load_dataset(data, "val")
    views = ViewsConfig(flip=True)
    assert (
        write_pseudo_masks(str(checkpoint), dataset, tmp_path / "round", runs=tmp_path, views=views, device="cpu") == 4
    )
    (tmp_path / "round/masks/b.png").unlink()
    assert (
        write_pseudo_masks(str(checkpoint), dataset, tmp_path / "round", runs=tmp_path, views=views, device="cpu") == 1
    )
    network = load_network(checkpoint)
    told = predict(network, dataset, dataset.samples, labels_given=True, pixels=True, views=views)
    for one in told:
        np.testing.assert_array_equal(read_mask(tmp_path / "round/masks", one.sample.id), one.mask)
        seed = read_seed(tmp_path / "round/refined", one.sample.id)
        assert seed.classes.tolist() == list(one.sample.classes) and seed.size == one.mask.shape
        assert seed.scores.shape[1:] == tuple(-(-side // 8) for side in seed.size)
        ratio = one.pixels[one.sample.classes[0]] / (one.pixels[one.sample.classes[0]] + one.pixels[0])
        assert float(seed.scores[0].mean()) == pytest.approx(ratio.mean(), abs=0.03)
        assert class_probabilities(seed).shape == (len(seed.classes) + 1, *one.mask.shape)
    again = with_masks_of(dataset, ["round"], tmp_path, ignore_below=0.5)
    assert set(np.unique(again.load_mask(dataset.samples[0]))) <= {0, 1, 255}
    rows = {row.stage: row for row in evaluate_run(tmp_path / "round", dataset) if row.headline}
    assert rows["masks"].labels_given and rows["masks"].network
    assert [stage_title(row) for row in rows.values()] == ["scores of the network", "masks of the network"]


def test_the_whole_way_in_one_table(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    dataset = load_dataset(data, "val")
    make_run(tmp_path / "one", data)
    network = load_network(checkpoint)
    for name, taught in (("net", "masks of one"), ("net_true", "true masks")):
        save_network(Network(**{**vars(network), "learnt_from": taught}), tmp_path / name / "network/last.safetensors")
        evaluate_checkpoint(name, dataset, runs=tmp_path, device="cpu")
    run(cli_wsss(), ["evaluate", "one", "--data", str(data), "--split", "val", "--runs", str(tmp_path)])
    files = write_report([tmp_path / name for name in ("one", "net", "net_true")], dataset, tmp_path / "report.html")
    text = files.markdown.read_text()
    assert "| net | masks of the network | learnt from masks of one |" in text
    assert "| net_true | masks of the network | learnt from true masks |" in text
    assert "- net is 0.0 points behind net_true" in text
    assert "learnt from true masks" in files.html.read_text()
    header = files.csv.read_text().splitlines()[0]
    assert "network,learnt_from" in header


def cli_wsss() -> object:
    from wsss.cli import app

    return app


def test_the_price_of_not_drawing_masks_is_between_equals(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    dataset = load_dataset(data, "val")
    save_network(load_network(checkpoint), tmp_path / "net/network/last.safetensors")
    evaluate_checkpoint("net", dataset, runs=tmp_path, device="cpu")
    (row,) = read_metrics(tmp_path / "net")
    low, high = (
        row.model_copy(update={"miou": 60.0}),
        row.model_copy(update={"miou": 66.25, "learnt_from": "true masks"}),
    )
    (line,) = prices({"net": [low], "drawn": [high]})
    assert line.startswith("net is 6.2 points behind drawn")
    assert not prices({"net": [low], "drawn": [high.model_copy(update={"network": "segmentation unet resnet18"})]})
    assert not prices({"net": [low], "drawn": [high.model_copy(update={"labels_given": True})]})


# --- export ---


def test_onnx_gives_what_the_network_gives(checkpoint: Path, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    network = load_network(checkpoint)
    found = export_onnx(network, tmp_path / "net.onnx", [picture(47, 80), picture(90, 61)])
    assert found.largest < 1e-4 and found.photographs == 2 and found.pixels < 1e-3
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    images = [picture(55, 101, k) for k in range(2)]
    mask, pixels, classes = session.run(None, {"image": np.stack([np.asarray(image) for image in images])})
    assert pixels.shape == (2, 3, 55, 101) and classes.shape == (2, 2)
    for one, likely, image in zip(mask, pixels, images, strict=True):
        with torch.inference_mode():
            logits, maps = network.module(network.prepare(image, (55, 101))[None])
        np.testing.assert_allclose(likely, maps[0].softmax(0).numpy(), atol=1e-4)
        assert (one == plain_mask(network, image)).mean() > 0.999
    np.testing.assert_allclose(classes[1], logits[0, 1:].sigmoid().numpy(), atol=1e-4)
    stored = session.get_modelmeta().custom_metadata_map
    assert json.loads(stored["class_names"]) == ["background", "cat", "dog"]


def test_an_export_that_differs_is_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    network = load_network(checkpoint)
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match=r"expected probabilities that differ .* nothing was written"):
        export_onnx(network, tmp_path / "net.onnx", [picture(40, 40)])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_one_line(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    unrolled = Network(unroll(model), "unrolled", "tiny", NAMES, (0.5,) * 3, (0.5,) * 3)
    for write in (export_onnx, export_small):
        with pytest.raises(InputError, match="`network`: unrolled tiny cannot be exported"):
            write(unrolled, tmp_path / "net.onnx", [])
    network = load_network(checkpoint)

    class Odd(nn.Module):
        segments, classifies = True, False

        def forward(self, images: Tensor, decode: int | None = None) -> tuple[None, Tensor]:
            return None, torch.from_numpy(np.fft.fft2(images.detach().numpy()).real).float()

    if {"onnx", "onnxruntime", "onnxscript"} <= {name for name in ("onnx", "onnxruntime", "onnxscript") if has(name)}:
        odd = Network(Odd(), "segmentation", "odd", NAMES, (0.5,) * 3, (0.5,) * 3, decoder="odd")
        with pytest.raises(InputError, match="cannot be exported") as error:
            export_onnx(odd, tmp_path / "odd.onnx", [picture(40, 40)])
        assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"onnx\w* is not installed: pip install 'relseg\[export\]'"):
        export_onnx(network, tmp_path / "net.onnx", [])
    assert not list(tmp_path.iterdir())


def has(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def test_small_checkpoints(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small.safetensors"
    words = ["export", "--network", str(checkpoint), "--format", "safetensors", "--out"]
    picture(40, 50).save(tmp_path / "1.png")
    assert run(cli.app, [*words, str(small), "--photographs", str(tmp_path / "1.png")]) == 0
    assert "compared on 1 photograph:" in capsys.readouterr().out
    assert small.stat().st_size < 0.6 * checkpoint.stat().st_size
    image = torch.from_numpy(np.array(picture(40, 50)))[None]
    with torch.inference_mode():
        one, other = (Deployed(load_network(path)).eval()(image)[1] for path in (checkpoint, small))
    assert 0 < (one - other).abs().max() < 0.2
    assert run(cli.app, [*words, str(checkpoint)]) == 2
    assert "is the network itself" in capsys.readouterr().err
    assert run(cli.app, [*words, str(tmp_path / "small.onnx")]) == 2
    assert "ends in .safetensors" in capsys.readouterr().err


def test_the_page_on_using_it_without_this_toolkit(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    page = (Path(__file__).parents[1] / "docs/segmentation_networks.md").read_text()
    code = page.split("### Without this toolkit")[1].split("```python\n")[1].split("```")[0]
    network, image = load_network(checkpoint), picture(66, 90)
    export_onnx(network, tmp_path / "segmentation.onnx", [image])
    image.save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "page", "exec"), {})
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["background", "cat", "dog"]
    with Image.open(tmp_path / "mask.png") as mask:
        assert (np.asarray(mask) == plain_mask(network, Image.open(tmp_path / "cat.jpg"))).mean() > 0.999


def test_figures_of_several_looks_or_given_labels_are_not_those_of_one(
    data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    dataset = load_dataset(data, "val")
    rule = {"size": None, "protocol": "voc", "precision": "float32"}
    for name, how, plain in (
        ("plain", {}, True),
        ("views", {"views": ViewsConfig(flip=True)}, False),
        ("told", {"labels_given": True}, False),
    ):
        entry = evaluate_checkpoint(str(checkpoint), dataset, runs=tmp_path, name=name, device="cpu", **how)
        assert is_evaluation_of(entry, checkpoint, dataset, **rule) is plain

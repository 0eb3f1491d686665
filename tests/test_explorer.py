"""The explorer beneath its page: uploads, regions, visitors, maps, downloads, and what its server lets through."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_uploads import bad_uploads
from PIL import Image
from small_explorer import NAMES, SIZE, colour_network, photograph, png

from cnnseg.classifiers import create_classifier
from cnnseg.cli import app as cnnseg_app
from cnnseg.explorer.classifying import ExplainedClassifier as ExplainedCnn
from cnnseg.explorer.foreign import foreign_network
from cnnseg.explorer.segmenting import ExplainedSegmenter
from cnnseg.models import Network, PlainClassifier, save_network
from cnnseg.regions.explaining import RegionExplainer, explain_segmentation
from cnnseg.regions.settings import read_question
from cnnseg.tested import find_model
from vitseg.cli import app as vitseg_app
from vitseg.explorer import ExplainedClassifier as ExplainedVit
from vitseg.methods import METHODS
from vitseg.models import load_classifier
from wsss.colours import OPACITY
from wsss.console import run
from wsss.errors import InputError
from wsss.explorer import downloads, pictures, serving
from wsss.explorer.asking import EXAMPLES, Explorer, example_file
from wsss.explorer.drawing import Stroke, after_stroke, combined, drawn
from wsss.explorer.explained import Answer, Cancelled, Look, Region, Setting
from wsss.explorer.sessions import Photograph, Sessions
from wsss.explorer.uploads import decoded, read_photograph
from wsss.explorer.watching import Watcher
from wsss.explorer.work import Done, Worker
from wsss.maps import scale_maps
from wsss.overlay import overlay

RED, GREEN, BLUE = 1, 2, 3


@pytest.fixture(scope="module")
def explained() -> ExplainedSegmenter:
    return ExplainedSegmenter(colour_network(), "colours")


@pytest.fixture
def explorer(explained):
    made = Explorer(explained)
    yield made
    made.close()


def last(steps):
    """What a generator of steps ends in."""
    done = [step for step in steps if isinstance(step, Done)]
    return done[-1].result if done else None


# Uploads


@pytest.mark.parametrize("name", bad_uploads())
def test_bad_upload_is_refused_with_a_line(name):
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        read_photograph(bad_uploads()[name])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    assert time.monotonic() - began < 20  # a bomb is not decoded


def test_file_that_is_too_long_is_refused_unread():
    with pytest.raises(InputError, match="at most 20 MB"):
        read_photograph(b"\xff" * 20_000_001)


def test_photographs_are_read_upright_and_opaque():
    image = Image.fromarray(photograph())
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    assert np.array_equal(read_photograph(buffer.getvalue()), np.rot90(photograph(), -1))
    transparent = Image.new("RGBA", (40, 40), (10, 20, 30, 0))
    buffer = io.BytesIO()
    transparent.save(buffer, "PNG")
    assert (read_photograph(buffer.getvalue()) == 255).all()
    for mode in ("L", "P", "CMYK", "1"):
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, "JPEG" if mode == "CMYK" else "PNG")
        assert read_photograph(buffer.getvalue()).shape == (*SIZE, 3)


@pytest.mark.parametrize(
    "sent", [None, 7, {}, {"name": "a"}, {"name": "a", "data": "no base64 !"}, {"data": 3, "name": 1}]
)
def test_what_is_no_file_is_refused(sent):
    with pytest.raises(InputError):
        decoded(sent)


def test_examples_come_with_scikit_image():
    for name in EXAMPLES:
        assert min(read_photograph(example_file(name)).shape[:2]) >= 200


# Regions


def test_rectangle_and_point_are_exact():
    found = drawn(Stroke(tool="rectangle", points=((30.9, 10.2), (5.0, 20.7))), (40, 50))
    wanted = np.zeros((40, 50), bool)
    wanted[10:21, 5:31] = True
    assert np.array_equal(found, wanted)
    found = drawn(Stroke(tool="point", points=((49.99, 0.0),)), (40, 50))
    assert found.sum() == 1 and found[0, 49]


def test_lasso_is_what_lies_inside():
    corners = np.array([(10.0, 5.0), (45.0, 12.0), (30.0, 20.0), (40.0, 36.0), (6.0, 30.0)])
    found = drawn(Stroke(tool="lasso", points=tuple(map(tuple, corners))), (40, 50))
    for y in range(40):
        for x in range(50):
            odd, near = False, False
            for (ax, ay), (bx, by) in zip(corners, np.roll(corners, 1, 0), strict=True):
                along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2), 0, 1)
                near |= np.hypot(ax + along * (bx - ax) - x, ay + along * (by - ay) - y) <= 1
                if (ay > y) != (by > y) and x < (bx - ax) * (y - ay) / (by - ay) + ax:
                    odd = not odd
            assert near or found[y, x] == odd, (x, y)


def test_brush_covers_what_is_near_its_path():
    path = np.array([(10.0, 10.0), (40.0, 10.0), (40.0, 30.0)])
    found = drawn(Stroke(tool="brush", points=tuple(map(tuple, path)), radius=5), (40, 60))
    rows, columns = np.indices((40, 60))
    away = np.full((40, 60), np.inf)
    for (ax, ay), (bx, by) in pairwise(path):
        along = (((columns - ax) * (bx - ax) + (rows - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2)).clip(0, 1)
        away = np.minimum(away, np.hypot(ax + along * (bx - ax) - columns, ay + along * (by - ay) - rows))
    assert found[away <= 4].all() and not found[away > 6.5].any()


def test_strokes_add_and_take_away():
    size = (20, 30)
    region = after_stroke(None, Stroke(tool="rectangle", points=((0, 0), (9, 9))), size)
    region = after_stroke(region, Stroke(tool="rectangle", mode="add", points=((10, 0), (14, 9))), size)
    assert region.area.sum() == 150
    region = after_stroke(region, Stroke(tool="rectangle", mode="remove", points=((0, 0), (14, 4))), size)
    assert region.area.sum() == 75 and not region.area[:5].any()
    with pytest.raises(InputError, match="leaves no pixel"):
        after_stroke(region, Stroke(tool="rectangle", mode="remove", points=((0, 0), (29, 19))), size)
    with pytest.raises(InputError, match="leaves no pixel"):
        after_stroke(None, Stroke(tool="point", mode="remove", points=((3, 3),)), size)


def test_clicked_pixels_stay_pixels_until_something_else_is_drawn():
    size = (20, 30)
    region = after_stroke(None, Stroke(tool="point", points=((3.5, 4.5),)), size)
    region = after_stroke(region, Stroke(tool="point", mode="add", points=((8, 9),)), size)
    region = after_stroke(region, Stroke(tool="point", mode="add", points=((8, 9),)), size)
    assert region.pixels == ((3, 4), (8, 9)) and region.area.sum() == 2
    region = combined(region, Region(np.eye(20, 30, dtype=bool), predicted=2), "add")
    assert region.pixels is None and region.predicted is None


# Visitors


def _seen(nbytes: int) -> Photograph:
    look = Look(np.zeros((nbytes // 6, 1, 3), np.uint8), (), None, ())
    return Photograph("x", "", look, "", None)


def test_visitors_are_kept_apart_and_forgotten():
    sessions = Sessions(idle_s=1e9, room=10_000, most=3)
    for key in "abc":
        sessions.of(key).photograph = _seen(3_000)
    assert sessions.of("a").photograph is not sessions.of("b").photograph
    assert len(sessions) == 3
    sessions.of("d")  # one too many: the one that was idle for longest goes
    assert len(sessions) == 3 and sessions.of("a").photograph is not None
    assert sessions.of("c").photograph is None
    sessions = Sessions(idle_s=1e9, room=10_000, most=99)
    for key in "abcdef":
        sessions.of(key).photograph = _seen(3_000)
    assert sum(s.nbytes for s in sessions._all.values()) <= 10_000 + 3_000
    sessions = Sessions(idle_s=0.0)
    sessions.of("a").photograph = _seen(30)
    time.sleep(0.01)
    sessions.of("b")
    assert len(sessions) == 1 and sessions.of("a").photograph is None


def test_only_the_latest_wish_is_answered():
    worker, session = Worker(), Sessions().of("a")
    gate, order = threading.Event(), []

    def slow(told):
        gate.wait(20)
        told(None)
        order.append("slow")

    first = worker.run(session, "a", slow)
    next(first)  # it has begun
    second = worker.run(session, "a", lambda told: order.append("quick"))
    threading.Timer(0.1, gate.set).start()
    assert [type(step) for step in second][-1] is Done
    assert list(first) == [] and order == ["quick"]
    worker.close()


def test_wishes_of_other_places_and_visitors_go_on():
    worker, sessions = Worker(), Sessions()
    runs = [worker.run(sessions.of(key), place, lambda told, n=key + place: n) for key in "xy" for place in "ab"]
    assert [last(run) for run in runs] == ["xa", "xb", "ya", "yb"]
    worker.close()


def test_failure_is_that_of_who_asked():
    worker, session = Worker(), Sessions().of("a")

    def failing(told):
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        list(worker.run(session, "a", failing))
    assert last(worker.run(session, "a", lambda told: 7)) == 7
    worker.close()


def test_failure_of_a_void_wish_is_nobodys():
    worker, session = Worker(), Sessions().of("a")
    ticket = session.ticket("a")

    def failing(told):
        session.cancel()
        raise InputError("no")

    assert list(worker.run(session, "a", failing, ticket)) == []
    assert not session.holds("a", ticket) and not session.replaced("a", ticket)
    assert session.ticket("a") > ticket and session.replaced("a", ticket)
    worker.close()


# Maps


def test_map_is_that_of_the_python_api(explorer, explained):
    last(explorer.open("v", png(photograph()), "colours.png"))
    for method, rules in (("gradcam", None), ("lrp", "epsilon"), ("input_x_gradient", None)):
        explorer.draw("v", {"tool": "rectangle", "points": [(70, 10), (150, 80)]})
        made = last(explorer.map("v", "a", Setting(method, rules)))
        mask = np.zeros(SIZE, bool)
        mask[10:81, 70:151] = True
        wanted = explain_segmentation(
            colour_network(), photograph(), method=method, rules=rules, region=_mask(mask), class_name="background"
        )
        assert np.array_equal(made.answer.map, wanted.map) and made.answer.score == wanted.score
        assert NAMES[made.answer.target] == "background"  # most of the rectangle is grey


def _mask(area):
    from cnnseg.regions.settings import Mask

    return Mask.of(area)


@pytest.mark.parametrize("score", ["logit", "margin"])
@pytest.mark.parametrize("region", ["class", "pixels", "mask"])
def test_settings_make_the_same_map_again(explorer, explained, tmp_path, region, score):
    last(explorer.open("v", png(photograph()), "colours.png"))
    if region == "class":
        explorer.pick("v", GREEN)
    elif region == "pixels":
        explorer.draw("v", {"tool": "point", "points": [(116.2, 44.9)]})
        explorer.draw("v", {"tool": "point", "mode": "add", "points": [(120, 40)]})
    else:
        explorer.draw("v", {"tool": "brush", "points": [(30, 30), (60, 50)], "radius": 6})
    made = last(explorer.map("v", "a", Setting("layercam", layer="network.encoder", score=score)))
    path = tmp_path / "again.json"
    path.write_bytes(downloads.settings_file(explained, made).content)
    question = read_question(path)
    again = RegionExplainer(colour_network())
    assert question.region.kind == {"class": "predicted", "pixels": "pixels", "mask": "mask"}[region]
    found = again.explain(again.see(photograph(), question.size), question)
    assert np.array_equal(found.map, made.answer.map)
    assert (question.image, len(question.image_hash)) == ("colours.png", 16)


def test_first_region_is_the_largest_class_and_pick_changes_it(explorer):
    found = last(explorer.open("v", png(photograph()), "colours.png"))
    assert explorer.session("v").region.predicted == BLUE
    assert found.look.shares[RED] == pytest.approx(40 * 48 / (120 * 160), rel=0.15)
    explorer.pick("v", RED)
    explorer.pick("v", GREEN, "add")
    area = explorer.session("v").region.area
    assert area[30, 40] and area[44, 116] and not area[98, 80]
    for index in (9, -1, "red", None):
        with pytest.raises(InputError):
            explorer.pick("v", index)


@pytest.mark.parametrize(
    "stroke",
    [
        None,
        {},
        {"tool": "axe", "points": [(1, 1)]},
        {"tool": "point", "points": []},
        {"tool": "point", "points": [(float("nan"), 1)]},
        {"tool": "point", "points": [(1e300, 1)]},
        {"tool": "brush", "points": [(1, 1)], "radius": 1e9},
        {"tool": "lasso", "points": [(1, 1)] * 20_001},
        {"tool": "point", "points": [(1, 1)], "more": 1},
    ],
)
def test_what_is_no_stroke_is_refused(explorer, stroke):
    last(explorer.open("v", png(photograph()), "colours.png"))
    before = explorer.session("v").region
    with pytest.raises(InputError):
        explorer.draw("v", stroke)
    assert explorer.session("v").region is before


def test_nothing_can_be_asked_without_a_photograph(explorer):
    for call in (
        lambda: explorer.pick("new", 1),
        lambda: explorer.draw("new", {}),
        lambda: list(explorer.map("new", "a", Setting("gradcam"))),
        lambda: list(explorer.multiples("new", Setting("gradcam"), "classes")),
    ):
        with pytest.raises(InputError, match="Open a photograph"):
            call()


def test_bad_photograph_leaves_the_old_one(explorer):
    last(explorer.open("v", png(photograph()), "colours.png"))
    before = explorer.session("v").photograph
    with pytest.raises(InputError):
        last(explorer.open("v", b"no", "no.png"))
    assert explorer.session("v").photograph is before


def test_multiples_are_the_single_maps(explorer):
    last(explorer.open("v", png(photograph()), "colours.png"))
    tiles, share = list(explorer.multiples("v", Setting("gradcam"), "classes"))[-1]
    assert share == 1 and [tile.name for tile in tiles] == list(NAMES)
    for index, tile in enumerate(tiles):
        explorer.pick("v", index)
        made = last(explorer.map("v", "a", Setting("gradcam")))
        assert np.array_equal(tile.made.answer.map, made.answer.map) and tile.made.answer.target == index
    tiles, _ = list(explorer.multiples("v", Setting("gradcam"), "layers"))[-1]
    assert [tile.made.answer.map.shape for tile in tiles] == [
        layer.size for layer in explorer.session("v").photograph.look.layers
    ]
    with pytest.raises(InputError, match="gradcam"):
        list(explorer.multiples("v", Setting("input_x_gradient"), "layers"))


def test_multiples_say_where_a_class_has_no_pixel(explorer):
    grey = np.full((64, 64, 3), 128, np.uint8)
    grey[:30, :30] = (230, 40, 40)
    last(explorer.open("v", png(grey), "one.png"))
    tiles, _ = list(explorer.multiples("v", Setting("gradcam"), "classes"))[-1]
    assert [tile.made is None for tile in tiles] == [False, False, True, True]


def test_multiples_end_when_cancelled(explorer):
    last(explorer.open("v", png(photograph()), "colours.png"))
    seen = []
    for tiles, _ in explorer.multiples("v", Setting("gradcam"), "classes"):
        seen.append(len(tiles))
        if len(tiles) == 2:
            explorer.cancel("v")
    assert max(seen) == 2


def test_work_can_be_cancelled_within_a_map_and_leaves_the_network_as_found(explained):
    look = explained.look(photograph())
    region = Region(look.mask == RED, predicted=RED)
    setting, told = Setting("integrated_gradients"), []
    wanted = explained.explain(look, setting, region, told.append).map
    assert told and set(told) == {None}  # nobody knows how long it takes
    told.clear()
    explained.explain(look, setting, region, told.append)
    assert told == sorted(told) and 0 < told[0] < 0.5 < told[-1] <= 1

    def stop(share):
        if share > 0.4:
            raise Cancelled

    with pytest.raises(Cancelled):
        explained.explain(look, setting, region, stop)
    assert np.array_equal(explained.explain(look, setting, region, told.append).map, wanted)


def test_watcher_changes_no_result():
    torch.manual_seed(0)
    layer, values = torch.nn.Conv2d(3, 4, 3), torch.randn(1, 3, 9, 9, requires_grad=True)

    def compute():
        return torch.autograd.grad(layer(values).relu().square().sum(), values)[0]

    assert torch.equal(Watcher().run("x", compute, lambda share: None), compute())


def test_many_visitors_at_once_get_their_own_maps(explorer):
    colours = {"r": (230, 40, 40), "g": (40, 220, 50), "b": (40, 50, 230)}
    wanted, failures = {}, []
    for key, colour in colours.items():
        image = np.full((64, 80, 3), 128, np.uint8)
        image[16:40, 20:60] = colour
        wanted[key] = image

    def visit(key: str) -> None:
        for _ in range(4):
            last(explorer.open(key, png(wanted[key]), f"{key}.png"))
            made = last(explorer.map(key, "a", Setting("gradcam")))
            name = NAMES[made.answer.target]
            if name[0] != key or made.photograph.name != f"{key}.png":
                failures.append((key, name, made.photograph.name))

    threads = [threading.Thread(target=visit, args=(key,)) for key in colours]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# What is shown and taken along


def test_signed_maps_are_blue_and_red_and_nothing_covers_nothing():
    values = np.array([[-2.0, 0.0], [1.0, 2.0]], np.float32)
    found = pictures.coloured(Answer(values, 0, 0.0, True), (2, 2))
    assert found.limits == pytest.approx((-2, 2), rel=0.05)
    assert found.cover[0, 1] == 0 < found.cover[1, 0] < found.cover[1, 1] == found.cover[0, 0] == 1
    assert found.colours[0, 0].argmax() == 2 and found.colours[1, 0].argmax() == 0
    found = pictures.coloured(Answer(np.abs(values), 0, 0.0, False), (2, 2))
    assert found.limits == (0, 2) and found.cover[0, 1] == 0 and found.cover[1, 1] == 1


def test_map_lies_where_the_grid_lies():
    values = np.zeros((4, 4), np.float32)
    values[:, 3] = 1  # beyond the photograph, of which the grid has a third more
    found = pictures.coloured(Answer(values, 0, 0.0, False, (1.0, 4 / 3)), (30, 30))
    assert found.cover[:, :24].max() < 0.01


@pytest.mark.parametrize("signed", [False, True])
def test_the_page_shows_the_picture_that_a_command_draws(signed):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    values = rng.random((30, 40)).astype(np.float32) - 0.5 * signed
    values[0, 0] = 0 if not signed else values[0, 0]
    found = pictures.coloured(Answer(values, 0, 0.0, signed), image.shape[:2])
    drawn = np.asarray(overlay(image, values, limits=found.limits, signed=signed, opacity=OPACITY), int)
    assert np.abs(pictures.blended(image, found, OPACITY) - drawn).max() <= 1
    above, below = pictures.veil(found).astype(float), pictures.muted(image, signed)
    weight = OPACITY * above[..., 3:] / 255  # as the browser lays one over the other
    assert np.abs(above[..., :3] * weight + below * (1 - weight) - drawn).max() <= 2
    assert np.array_equal(pictures.blended(image, found, 0.0), below)


def test_outline_shows_single_pixels_of_large_photographs():
    area = np.zeros((1200, 1600), bool)
    area[700, 900] = True
    assert pictures.outlined(Region(area, pixels=((900, 700),)), (300, 400))[..., 3].any()


def test_downloads_hold_what_is_shown(explorer, explained):
    last(explorer.open("v", png(photograph()), "../my photo.png"))
    made = last(explorer.map("v", "a", Setting("lrp", "epsilon")))
    file = downloads.map_file(explained, made)
    assert file.name == "my_photo.blue.lrp.epsilon.npz"
    with np.load(io.BytesIO(file.content), allow_pickle=False) as content:
        assert np.array_equal(content["maps"], made.answer.map[None]) and content["classes"].tolist() == ["blue"]
        assert np.array_equal(content["region"], explorer.session("v").region.area)
        assert json.loads(str(content["settings"]))["rules"] == "epsilon"
    picture = np.asarray(Image.open(io.BytesIO(downloads.picture_file(explained, made, 1.0).content)))
    found = pictures.coloured(made.answer, SIZE)
    assert np.array_equal(picture, pictures.blended(made.photograph.look.photograph, found, 1.0))


# Models from elsewhere


def test_network_of_a_function(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\n"
        "def plain(): return nn.Conv2d(3, 5, 1)\n"
        "def named(): return nn.Conv2d(3, 2, 1), ['sky', 'ground']\n"
        "def short(): return nn.Conv2d(3, 5, 1), ['one']\n"
        "def flat(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))\n"
        "def grey(): return nn.Conv2d(1, 5, 1)\n"
        "def number(): return 7\n"
        "class Maps(nn.Module):\n"
        "    def forward(self, images): return {'depth': images}\n"
        "def other(): return Maps()\n"
    )
    monkeypatch.chdir(tmp_path)
    assert foreign_network("own_networks:plain").class_names == ("class 1", "class 2", "class 3", "class 4")
    assert foreign_network("own_networks:named").class_names == ("ground",)
    for name, reason in {
        "short": "expected names for 5 classes, got 1",
        "flat": "expected maps",
        "grey": "takes no image",
        "number": "expected a torch.nn.Module",
        "none": "has no none",
        "other": "^`model` own_networks:other: expected class maps by the name 'out', got depth$",
    }.items():
        with pytest.raises(InputError, match=reason):
            foreign_network(f"own_networks:{name}")
    for name in ("own_networks", "no_such_module:f", ":f"):
        with pytest.raises(InputError):
            foreign_network(name)


# Classifiers


def _overlay_of_the_command(app, settings: str, image: np.ndarray, folder: Path) -> np.ndarray:
    """The picture that a command ``explain`` makes of the settings that were downloaded."""
    (folder / "settings.json").write_text(settings)
    (folder / "photo.png").write_bytes(png(image))
    status = run(
        app, ["explain", str(folder / "photo.png"), "--config", str(folder / "settings.json"), "--out", str(folder)]
    )
    assert status == 0
    (written,) = folder.glob("photo_*.png")
    return np.asarray(Image.open(written))


def test_cnn_classifier_and_its_settings(tmp_path):
    torch.manual_seed(0)
    module = PlainClassifier(create_classifier("resnet18", len(NAMES), pretrained=False))
    network = Network(module, "classifier", "resnet18", NAMES[1:], (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    save_network(network, tmp_path / "cnn.safetensors")
    where = str(tmp_path / "cnn.safetensors")
    explained = ExplainedCnn(find_model(where, None, "pretrained", tmp_path), where)
    explorer = Explorer(explained)
    found = last(explorer.open("v", png(photograph()), "photo.png"))
    assert explorer.session("v").region is None and found.look.mask is None and len(found.look.shares) == 3
    assert [layer.size for layer in found.look.layers] == sorted((x.size for x in found.look.layers), reverse=True)
    layer = found.look.layers[-1]
    made = last(explorer.map("v", "a", Setting("gradcam", layer=layer.name, target=1)))
    assert made.answer.map.shape == layer.size
    made = last(explorer.map("v", "a", Setting("lrp", "epsilon_plus_flat", target=1)))
    with pytest.raises(InputError):
        explorer.draw("v", {"tool": "point", "points": [(1, 1)]})
    tiles, _ = list(explorer.multiples("v", Setting("gradcam"), "classes"))[-1]
    assert sorted(tile.name for tile in tiles) == ["blue", "green", "red"]
    picture = _overlay_of_the_command(cnnseg_app, downloads.settings(explained, made), photograph(), tmp_path)
    assert np.array_equal(picture, np.asarray(overlay(photograph(), made.answer.map)))
    explorer.close()


def test_vit_classifier_and_its_settings(tmp_path):
    where = Path(__file__).parents[1] / "demo" / "checkpoints" / "classifier.safetensors"
    explained = ExplainedVit(load_classifier(where), "demo", {"classifier": str(where)})
    explorer = Explorer(explained)
    image = read_photograph(example_file("chelsea"))
    found = last(explorer.open("v", png(image), "photo.png"))
    assert explained.class_names[int(np.argmax(found.look.shares))] == "cat"
    assert {method.name for method in explained.methods} == set(METHODS)
    for method in explained.methods:
        made = last(explorer.map("v", "a", Setting(method.name)))
        assert made.answer.target == explained.class_names.index("cat")
    made = last(explorer.map("v", "a", Setting("transformer_attribution", "exact")))
    picture = _overlay_of_the_command(vitseg_app, downloads.settings(explained, made), image, tmp_path)
    scaled = scale_maps(torch.from_numpy(made.answer.map)[None])[0]
    assert np.array_equal(picture, np.asarray(overlay(image, scaled, limits=(0, 1))))
    explorer.close()


# The server's door


def _asked(path: str, method: str = "GET", *, host: str = "127.0.0.1:7860", chunks: tuple[bytes, ...] = (), **headers):
    """Status with which a request is answered by a server whose inside says 200 to all that it is let to see."""

    async def inside(scope, receive, send):
        more = True
        while more:
            more = (await receive()).get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent, parts = (
        [],
        [{"type": "http.request", "body": b, "more_body": True} for b in chunks] + [{"type": "http.request"}],
    )

    async def receive():
        return parts.pop(0)

    async def send(message):
        sent.append(message)

    given = {"host": host} | {key.replace("_", "-"): value for key, value in headers.items()}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(k.encode(), v.encode()) for k, v in given.items()],
    }
    asyncio.run(serving.Doorkeeper(inside, serving.LOOPBACK)(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize("path", ["/", "/config", "/theme.css", "/assets/index-1a.js", "/gradio_api/queue/data"])
def test_the_page_is_let_through(path):
    status, headers = _asked(path)
    assert status == 200 and b"default-src 'self'" in headers[b"content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/proxy=http://example.org/",
        "/gradio_api/upload",
        "/gradio_api/info",
        "/gradio_api/vibe-code",
        "/static/../../../etc/passwd",
        "/assets/..%2f..%2fetc/passwd",
        "/assets/%2e%2e/x",
        "//etc/passwd",
        "/monitoring",
        "/docs",
        "/config/",
        "/svelte/x",
    ],
)
def test_nothing_else_is(path):
    assert _asked(path)[0] == 404
    assert _asked(path, "POST")[0] == 404


def test_methods_and_hosts_are_checked():
    assert _asked("/", "POST")[0] == 404 and _asked("/gradio_api/queue/join")[0] == 404
    assert _asked("/gradio_api/queue/join", "POST")[0] == 200
    assert _asked("/", host="evil.example.org")[0] == 421 and _asked("/", host="")[0] == 421
    assert _asked("/", host="localhost:7860")[0] == 200 and _asked("/", host="[::1]:7860")[0] == 200


def test_large_bodies_are_refused_announced_or_not():
    path, part = "/gradio_api/queue/join", b"x" * 4_000_000
    assert _asked(path, "POST", content_length=str(serving.LARGEST_BODY + 1))[0] == 413
    assert _asked(path, "POST", content_length="-1")[0] == 413
    assert _asked(path, "POST", chunks=(part,) * 9)[0] == 413
    assert _asked(path, "POST", chunks=(part,))[0] == 200


def test_ports_are_checked():
    with pytest.raises(InputError, match="0 to 65535"):
        serving._listen("127.0.0.1", 70_000)
    taken = serving._listen("127.0.0.1", 0)
    taken.listen()
    with pytest.raises(InputError, match="in use"):
        serving._listen("127.0.0.1", taken.getsockname()[1])
    taken.close()

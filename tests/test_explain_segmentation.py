"""Explanations of regions: on the network's grid, laid over photographs, from the command line and its settings."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import label
from torch import Tensor, nn

import cnnseg
from cnnseg import cli
from cnnseg.models import Network, create_segmentation, save_network
from cnnseg.regions.explaining import RegionExplainer, explain_segmentation
from cnnseg.regions.geometry import enlarged, mask_at, pixels_at
from cnnseg.regions.layers import stages, usual_layer
from cnnseg.regions.pictures import draw_classes, draw_layers
from cnnseg.regions.settings import Mask, Pixels, SegmentationQuestion, question_of, read_question
from cnnseg.segmentation.settings import SegmentationConfig
from wsss.console import run
from wsss.errors import InputError

NAMES = ("cat", "dog")


class Plain(nn.Module):
    """A stride of 2 and back: scores of a pixel are read off its 2 x 2 cell."""

    classifies, segments, multiple = True, True, 2

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 2, 2), nn.ReLU())
        self.head = nn.Conv2d(6, 3, 1)

    def forward(self, images: Tensor, decode: int | None = None) -> tuple[Tensor, Tensor]:
        height, width = images.shape[2:]
        padded = nn.functional.pad(images, (0, -width % 2, 0, -height % 2), mode="replicate")
        maps = nn.functional.interpolate(self.head(self.encoder(padded)), scale_factor=2.0, mode="nearest")
        return maps.mean((2, 3)), maps[..., :height, :width]


def plain(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    module = Plain().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return Network(module, "segmentation", "plain", NAMES, (0.5,) * 3, (0.25,) * 3, decoder="none", masks=3)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Blocks of 4 x 4 pixels of one colour."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (-(-height // 4), -(-width // 4), 3), np.uint8)
    return Image.fromarray(small.repeat(4, 0).repeat(4, 1)[:height, :width])


@pytest.fixture(scope="module")
def explainer() -> RegionExplainer:
    return RegionExplainer(plain())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in net.safetensors, the photographs a.png, b.png and bad.png, and mask.png for a.png."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    network = create_segmentation(
        SegmentationConfig(decoder="fpn", encoder="mobilenetv3_small_050", weights="none"), NAMES
    )
    nn.init.normal_(network.module.segmentation_head[0].weight, std=3.0)
    save_network(network, folder / "net.safetensors")
    picture(70, 90).save(folder / "a.png")
    picture(64, 64, seed=1).save(folder / "b.png")
    (folder / "bad.png").write_bytes(b"no image")
    mask = np.zeros((70, 90), np.uint8)
    mask[20:50, 30:60] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


# --- the region on the network's grid ---


@pytest.mark.parametrize(("native", "grid"), [((30, 40), (30, 40)), ((375, 500), (277, 369)), ((31, 17), (10, 6))])
def test_a_pixel_stays_a_pixel(native: tuple[int, int], grid: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    corners = [(0, 0), (native[1] - 1, native[0] - 1), (0, native[0] - 1)]
    for x, y in corners + [(int(rng.integers(native[1])), int(rng.integers(native[0]))) for _ in range(30)]:
        found = pixels_at([(x, y)], native, grid)
        row, column = int((y + 0.5) * grid[0] / native[0]), int((x + 0.5) * grid[1] / native[1])
        assert found.sum() == 1 and found[row, column]
        alone = np.zeros(native, bool)
        alone[y, x] = True
        if native != grid:
            assert (mask_at(alone, native, grid) == found).all()  # though it covers less than half of the cell


def test_a_mask_covers_cells_by_half_and_loses_no_part() -> None:
    rng = np.random.default_rng(1)
    native, grid = (24, 36), (8, 9)  # cells of 3 x 4
    parts, _ = label(rng.random(native) < 0.6, np.ones((3, 3)))
    mask = parts == np.bincount(parts[parts > 0]).argmax()
    share = mask.reshape(8, 3, 9, 4).mean((1, 3))
    assert (mask_at(mask, native, grid) == (share >= 0.5)).all() and mask.sum() > 300
    line = np.zeros(native, np.uint8)
    line[10, 3:30] = 7  # a third of each cell
    line[0:6, 32:36] = 1  # two cells, whole
    found = mask_at(line, native, grid)
    due = np.zeros(grid, bool)
    due[3, 0:8] = due[0:2, 8] = True
    assert (found == due).all()


def test_masks_of_another_size_empty_masks_and_pixels_outside_are_refused() -> None:
    with pytest.raises(InputError, match=r"region: .* got 5 x 4 pixels, its photograph 6 x 4"):
        mask_at(np.ones((4, 5)), (4, 6), (2, 3))
    with pytest.raises(InputError, match="0 everywhere"):
        mask_at(np.zeros((4, 6)), (4, 6), (2, 3))
    for point in ((6, 0), (0, 4), (-1, 0)):
        with pytest.raises(InputError, match=r"outside of the photograph, which is 6 x 4 .*x is 0 to 5, y is 0 to 3"):
            pixels_at([point], (4, 6), (4, 6))


def test_enlarged_cells_lie_over_the_pixels_whose_centres_they_hold() -> None:
    cells = np.arange(6).reshape(2, 3)
    assert (enlarged(cells, (4, 6)) == cells.repeat(2, 0).repeat(2, 1)).all()
    assert (enlarged(cells, (2, 3)) == cells).all()


# --- explanations ---


def test_the_score_is_the_mean_over_the_region_and_the_map_that_of_the_adapter(explainer: RegionExplainer) -> None:
    photograph = picture(21, 33)
    seen = explainer.see(photograph)
    maps = explainer.network.module(explainer.network.prepare(photograph, (21, 33))[None])[1][0].detach()
    assert (seen.mask == maps.argmax(0).numpy()).all()
    for name, output in (("background", 0), ("cat", 1), ("dog", 2)):
        if not (seen.mask == output).any():
            continue
        found = explainer.explain(seen, SegmentationQuestion(class_name=name, method="input_x_gradient"))
        inside = maps.argmax(0) == output
        assert found.score == pytest.approx(float(maps[output][inside].mean()), rel=1e-5)
        adapted = cnnseg.adapt(explainer.network, inside[None, None])
        due = cnnseg.explain(adapted, seen.images, output, "input_x_gradient").maps[0]
        np.testing.assert_allclose(found.map, due.numpy(), rtol=1e-4, atol=1e-6)
        assert found.region.sum() == inside.sum()


def test_all_classes_at_once_are_each_class_by_itself(explainer: RegionExplainer) -> None:
    seen = explainer.see(picture(24, 32, seed=2))
    for region in ({"kind": "predicted"}, {"kind": "pixels", "points": [[3, 4], [20, 10]]}):
        for method in ("gradcam", "lrp", "input_x_gradient"):
            question = question_of({"region": region, "method": method}, "test")
            together = explainer.explain_classes(seen, question)
            assert len(together) > 1
            for one in together:
                alone = explainer.explain(seen, question.model_copy(update={"class_name": one.class_name}))
                np.testing.assert_allclose(one.map, alone.map, rtol=1e-4, atol=1e-7)
                assert one.score == pytest.approx(alone.score, rel=1e-5)
                assert (one.region == alone.region).all()


def test_the_margin_is_what_a_class_is_above_the_best_other_one(explainer: RegionExplainer) -> None:
    seen = explainer.see(picture(24, 32, seed=2))
    found = explainer.explain(seen, SegmentationQuestion(score="margin", method="lrp"))
    output = seen.names.index(found.class_name)
    others = np.delete(seen.maps[0].numpy(), output, axis=0).max(0)
    assert found.score == pytest.approx(float((seen.maps[0, output].numpy() - others)[found.region].mean()), rel=1e-5)


def test_a_class_that_is_not_named_is_the_one_of_most_pixels(explainer: RegionExplainer) -> None:
    seen = explainer.see(picture(24, 32, seed=2))
    shares = {name: share for name, share in seen.shares.items() if name != "background"}
    assert explainer.explain(seen, SegmentationQuestion()).class_name == max(shares, key=shares.get)
    y, x = np.argwhere(seen.mask == 0)[5]
    clicked = SegmentationQuestion(region=Pixels(points=((int(x), int(y)),)))
    assert explainer.explain(seen, clicked).class_name == "background"


def test_a_large_photograph_is_shrunk_and_its_map_laid_over_it_whole(explainer: RegionExplainer) -> None:
    photograph = picture(80, 121, seed=3)
    seen = explainer.see(photograph, size=33)
    height, width = seen.images.shape[2:]
    assert abs(height * width - 33**2) < 60 and (height % 2 or width % 2)
    found = explainer.explain(seen, SegmentationQuestion(region=Pixels(points=((120, 79),))))
    assert found.region.sum() == 1 and found.region[-1, -1]
    assert found.map.shape == (-(-height // 2), -(-width // 2)) and found.question.layer == "encoder"
    assert found.covers == (2 * found.map.shape[0], 2 * found.map.shape[1])
    assert found.full.shape == (80, 121) and found.overlay().size == (121, 80)


def test_a_grid_that_is_filled_up_is_cut_where_the_photograph_ends(explainer: RegionExplainer) -> None:
    """Of a cell of 2 x 2 pixels whose second column is filling, half a cell is shown, not the whole one squeezed in."""
    seen = explainer.see(picture(4, 5, seed=4))
    found = explainer.explain(seen, SegmentationQuestion(class_name=seen.found[0]))
    assert found.map.shape == (2, 3) and found.covers == (4, 6)
    ramp = type(found)(np.array([[0, 1, 2]] * 2, np.float32), (4, 6), 0.0, found.region, found.question, seen)
    np.testing.assert_allclose(ramp.full[0], [0, 0.25, 0.75, 1.25, 1.75], atol=1e-6)


def test_layers_are_in_order_with_the_size_of_their_maps(explainer: RegionExplainer) -> None:
    seen = explainer.see(picture(24, 32))
    found = explainer.layers(seen, every=True)
    assert [(layer.name, layer.channels, layer.size, layer.stride, layer.scores) for layer in found] == [
        ("encoder.0", 6, (12, 16), 2.0, False),
        ("encoder", 6, (12, 16), 2.0, False),
        ("head", 3, (12, 16), 2.0, True),
    ]
    assert [layer.name for layer in stages(found)] == ["encoder"] and usual_layer(found).name == "encoder"
    for layer in found:
        asked = SegmentationQuestion(layer=layer.name, method="layercam")
        assert explainer.explain(seen, asked).map.shape == layer.size


def test_the_network_is_left_as_it_was_and_the_photograph_may_be_in_any_form(explainer: RegionExplainer) -> None:
    network = plain()
    before = {key: value.clone() for key, value in network.module.state_dict().items()}
    found = explain_segmentation(network, np.asarray(picture(24, 32)), method="lrp", rules="epsilon_plus")
    again = explain_segmentation(network, picture(24, 32), SegmentationQuestion(method="lrp", rules="epsilon_plus"))
    assert (found.map == again.map).all() and found.question == again.question
    after = network.module.state_dict()
    assert before.keys() == after.keys() and all((before[key] == after[key]).all() for key in before)
    assert all(parameter.grad is None for parameter in network.module.parameters())


def test_pictures_of_classes_and_layers_have_a_panel_each(explainer: RegionExplainer) -> None:
    seen = explainer.see(picture(24, 32, seed=2))
    classes = explainer.explain_classes(seen, SegmentationQuestion(method="lrp"))
    few, more = draw_classes(classes[:1]), draw_classes(classes)
    assert few.width < more.width and few.mode == "RGB"
    layered = [explainer.explain(seen, SegmentationQuestion(layer=layer.name)) for layer in explainer.layers(seen)]
    assert draw_layers(layered).width > 300


def test_what_cannot_be_asked_is_refused_in_one_line(explainer: RegionExplainer) -> None:
    seen = explainer.see(picture(24, 32, seed=2))
    asked = SegmentationQuestion(class_name=seen.found[0])
    for patch, message in (
        ({"class_name": "cta"}, "class 'cta' is unknown to the network: did you mean 'cat'"),
        ({"method": "gradcm"}, "method 'gradcm' is unknown: did you mean 'gradcam'"),
        ({"rules": "epsilon_plus"}, "rules: method gradcam has none"),
        ({"layer": "encoder.7"}, "layer 'encoder.7' is unknown"),
        ({"method": "input_x_gradient", "layer": "encoder"}, "looks at none of its own"),
        ({"method": "cam"}, "method cam: needs a CNN that ends in a global average pooling"),
        ({"region": Mask.of(np.ones((3, 3)))}, "region: .* got 3 x 3 pixels, its photograph 32 x 24"),
        ({"region": Pixels(points=((32, 0),))}, "pixel 32,0: outside"),
    ):
        with pytest.raises(InputError, match=message):
            explainer.explain(seen, asked.model_copy(update=patch))
    seen.__dict__["mask"] = np.zeros_like(seen.mask)
    with pytest.raises(InputError, match=r"class 'cat': no pixel is predicted as it \(predicted: background"):
        explainer.explain(seen, SegmentationQuestion(class_name="cat"))
    with pytest.raises(InputError, match="all pixels are predicted as background; name one"):
        explainer.explain(seen, SegmentationQuestion())
    with pytest.raises(InputError, match="less than the network's stride"):
        explainer.see(picture(1, 5))
    with pytest.raises(InputError, match="explain_segmentation: nothing: unknown; "):
        explain_segmentation(explainer.network, picture(24, 32), nothing=1)


# --- settings ---


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((20, 30)) < 0.3
    for region in (Mask.of(mask), Pixels(points=((3, 4), (0, 0)))):
        asked = SegmentationQuestion(
            network="n", image="i.png", class_name="cat", region=region, method="lrp", rules="zero", score="margin"
        )
        (tmp_path / "it.json").write_text(asked.json_text())
        assert read_question(tmp_path / "it.json") == asked
        assert json.loads(asked.json_text())["class"] == "cat"
    assert (Mask.of(mask).array() == mask).all()


def test_settings_that_say_nothing_or_too_much_are_refused() -> None:
    def png(image: Image.Image) -> str:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()

    whole = png(Image.new("L", (4000, 4000)))
    header = bytearray(base64.b64decode(png(Image.new("1", (8, 8)))))
    header[16:24] = (9000).to_bytes(4, "big") * 2
    for content, message in (
        ([], "expected the settings of an explanation"),
        ({"version": 2}, "expected settings of version 1, got version 2"),
        ({"clas": "cat"}, "clas: unknown; did you mean 'class'"),
        ({"size": -1}, "size: "),
        ({"score": "loss"}, "score: "),
        ({"region": {"kind": "circle"}}, "region: "),
        ({"region": {"kind": "pixels", "points": []}}, "points: "),
        ({"region": {"kind": "pixels", "points": [[1, -2]]}}, "points"),
        ({"region": {"kind": "mask", "png": "%"}}, "expected a PNG in base64"),
        ({"region": {"kind": "mask", "png": base64.b64encode(b"GIF89a").decode()}}, "expected a PNG in base64"),
        ({"region": {"kind": "mask", "png": png(Image.new("RGB", (3, 3)))}}, "mode RGB"),
        ({"region": {"kind": "mask", "png": whole[: len(whole) // 2 // 4 * 4]}}, "damaged"),
        ({"region": {"kind": "mask", "png": base64.b64encode(header).decode()}}, "in base64|at most|damaged"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            question_of(content, "it.json")
        assert str(caught.value).startswith("it.json: ") and len(str(caught.value)) < 400


# --- the commands ---


def asks(*tokens: object) -> int:
    return run(cli.app, ["explain-segmentation", *map(str, tokens)])


def test_the_command_writes_what_makes_the_same_map_again(files: Path, tmp_path: Path, capsys) -> None:
    common = ("--network", files / "net.safetensors", "--method", "lrp", "--out", tmp_path / "one")
    assert asks(files / "a.png", *common, "--region", files / "mask.png", "--class", "cat", "--size", 64) == 0
    (settings,) = (tmp_path / "one").glob("*.json")
    assert settings.name == "a_cat.region.lrp.json" and settings.with_suffix(".png").is_file()
    assert asks("--settings", settings, "--out", tmp_path / "two") == 0
    first, second = (np.load(tmp_path / folder / "a_cat.region.lrp.npz") for folder in ("one", "two"))
    assert (first["maps"] == second["maps"]).all() and first["maps"].shape[0] == 1
    assert "warning" not in capsys.readouterr().err
    found = explain_segmentation(files / "net.safetensors", files / "a.png", read_question(settings))
    assert (found.map == first["maps"][0]).all() and found.score == pytest.approx(float(first["scores"][0]))
    assert asks(files / "b.png", "--settings", settings, "--out", tmp_path / "three") == 2
    assert "made of another photograph" in capsys.readouterr().err


def test_a_photograph_that_cannot_be_read_is_named_and_the_others_are_made(files: Path, tmp_path: Path, capsys) -> None:
    tokens = ("--network", files / "net.safetensors", "--class", "background", "--out", tmp_path, "--format", "jpg")
    assert asks(files / "a.png", files / "bad.png", files / "b.png", *tokens) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: 1 of 3 photographs was left out")
    assert "bad.png" in error and "not an image" in error
    assert {path.name for path in tmp_path.glob("*.jpg")} == {
        f"{n}_background.gradcam.encoder{kind}.jpg" for n in "ab" for kind in ("", ".sheet")
    }


def test_the_command_draws_classes_and_layers(files: Path, tmp_path: Path) -> None:
    tokens = (files / "a.png", "--network", files / "net.safetensors", "--out", tmp_path, "--pixel", "40,30")
    assert asks(*tokens, "--all-classes") == 0 and asks(*tokens, "--all-layers", "--class", "dog") == 0
    classes, layers = (np.load(next(tmp_path.glob(f"*{name}*.npz"))) for name in ("classes", "layers"))
    assert len(classes["maps"]) == len(classes["classes"]) == len(classes["regions"])
    names = layers["layers"].tolist()
    assert len(names) > 3 and all(layers[f"map_{place}"].ndim == 2 for place in range(len(names)))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (("--class", "cta"), "class 'cta' is unknown to the network: did you mean 'cat'"),
        (("--pixel", "10;3"), "--pixel 10;3: expected X,Y"),
        (("--pixel", "900,3"), "pixel 900,3: outside of the photograph, which is 90 x 70"),
        (("--pixel", "1,3", "--region", "MASK"), "--pixel, --region: expected one of the two"),
        (("--region", "NONE.png"), "no such file"),
        (("--region", "a.png"), "expected a palette or grey-scale image, got mode RGB"),
        (("--method", "gradcm"), "did you mean 'gradcam'"),
        (("--layer", "encodr"), "did you mean 'encoder'"),
        (("--all-classes", "--class", "cat"), "--all-classes explains all"),
        (("--all-classes", "--all-layers"), "expected one of the two"),
        (("--all-layers", "--method", "input_x_gradient"), "--all-layers: method input_x_gradient looks at none"),
        (("--all-layers", "--layer", "encoder"), "--all-layers shows them all"),
        (("--format", "gif"), "--format"),
        (("--size", "-1"), "size"),
        (("--score", "loss"), "score"),
        (("--settings", "net.safetensors"), "not valid JSON"),
    ],
)
def test_bad_options_end_in_one_line(files: Path, tmp_path: Path, capsys, tokens, message: str) -> None:
    named = [files / token if "." in token and "," not in token else token for token in tokens]
    named = [files / "mask.png" if token == "MASK" else token for token in named]
    assert asks(files / "a.png", "--network", files / "net.safetensors", "--out", tmp_path, *named) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1] and lines[-1].startswith("error: ") and "Traceback" not in "".join(lines)
    assert not list(tmp_path.iterdir())


def test_bad_networks_and_photographs_end_in_one_line(files: Path, tmp_path: Path, capsys) -> None:
    photograph, out = files / "a.png", ("--out", tmp_path)
    given = tmp_path / "it.json"
    given.write_text(SegmentationQuestion(class_name="cat").json_text())
    for tokens, message in (
        ((photograph, *out), "--network: expected a checkpoint"),
        (("--network", files / "net.safetensors", *out), "images: expected a photograph"),
        ((photograph, "--network", tmp_path / "none", *out), "none: no such file"),
        ((photograph, "--network", photograph, *out), "network"),
        ((tmp_path / "none.png", "--network", files / "net.safetensors", *out), "no such file or folder"),
        (("--settings", given, "--class", "dog", *out), "--class: --settings"),
        (("--settings", given, "--method", "lrp", *out), "--method: --settings"),
        (("--settings", given, *out), "--network: expected a checkpoint"),
    ):
        assert asks(*tokens) == 2
        assert message in capsys.readouterr().err


def test_a_network_that_does_not_segment_is_refused(tmp_path: Path) -> None:
    module = nn.Conv2d(3, 3, 1)
    module.segments = False
    with pytest.raises(InputError, match="does not segment"):
        RegionExplainer(Network(module, "classifier", "x", NAMES, (0.5,) * 3, (0.25,) * 3))


def test_list_layers_names_layers_that_explanations_take(files: Path, capsys) -> None:
    assert run(cli.app, ["list-layers", "--network", str(files / "net.safetensors"), "--size", "64"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines[-1].endswith("the network's answer") and sum("unless --layer is given" in line for line in lines) == 1
    explainer = RegionExplainer(cnnseg.load_network(files / "net.safetensors", device="cpu"))
    seen = explainer.see(files / "b.png")
    for line in lines:
        name, _, height, _, width, *_ = line.split()
        found = explainer.explain(seen, SegmentationQuestion(class_name=seen.found[0], layer=name))
        assert found.map.shape == (int(height), int(width))

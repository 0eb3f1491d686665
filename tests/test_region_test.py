"""The region test: against a slow loop, areas computed by hand, killed and resumed, from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import finish, make_data
from torch import Tensor, nn

import cnnseg
from cnnseg import cli
from cnnseg.models import Network, create_segmentation, save_network
from cnnseg.regions.tested import explainer_named, random_maps
from cnnseg.segmentation.settings import SegmentationConfig
from wsss.console import run
from wsss.data import load_dataset
from wsss.entries import read_tests
from wsss.errors import InputError
from wsss.explanation_tests import regions
from wsss.explanation_tests.commands import pairs_of
from wsss.explanation_tests.explainer import Explainer
from wsss.explanation_tests.figures import paired_difference, read_results, region_figures
from wsss.explanation_tests.perturbation import removal_places
from wsss.explanation_tests.regions import Pair, evaluate_regions, find_pair, places_among
from wsss.explanation_tests.tested import ModelUnderTest
from wsss.report.explanation import test_sections

NAMES = ("cat", "dog")


class Conv(nn.Module):
    """One 5x5 convolution to three maps of the image's size."""

    segments, multiple = True, 1

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 5, padding=2)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images)


class Known(nn.Module):
    """The class-1 logit is, at every pixel, the share of the `watched` pixels that are not black; others have 0.

    `strength` times that share: a region's probability depends on known pixels alone.
    """

    segments, multiple = True, 1

    def __init__(self, watched: Tensor, strength: float) -> None:
        super().__init__()
        self.watched, self.strength = watched, strength
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        lit = (images.sum(1) > 0) & self.watched
        share = lit.sum((1, 2)) / self.watched.sum()
        watched = self.strength * share[:, None, None].expand_as(images[:, 0])
        return torch.stack([torch.zeros_like(watched), watched], 1)


class Adapted(nn.Module):
    """What the test needs of an adapted network, and no more."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.region = network, None

    def maps(self, images: Tensor) -> Tensor:
        return self.network(images)


def model_under_test(model: nn.Module, mean: float = 0.0, std: float = 1.0) -> ModelUnderTest:
    return ModelUnderTest(model.eval(), NAMES, (mean,) * 3, (std,) * 3, (20, 20), "small", "abc", first_class=1)


def conv(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = Conv()
    nn.init.normal_(network.layer.weight, std=0.4)
    return cnnseg.adapt(network)


def picture(height: int = 14, width: int = 17, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def slow_scores(
    tested: ModelUnderTest, image: Image.Image, target: int, relevance: np.ndarray, where: np.ndarray
) -> np.ndarray:
    """(2, 2, 10): [probability, logit][negative, positive][tenth], in float64, one picture after the other."""
    pixels = np.asarray(image, np.float64) / 255
    network = tested.model.network.double()

    def maps(picture: np.ndarray) -> np.ndarray:
        inputs = (picture - np.array(tested.mean)) / np.array(tested.std)
        with torch.no_grad():
            return network(torch.from_numpy(inputs.transpose(2, 0, 1)[None].copy()))[0].numpy()

    region = maps(pixels).argmax(0) == target
    places = [(-relevance[y, x], y, x) for y, x in np.argwhere(where)]
    ranking = [(y, x) for _, y, x in sorted(places)]
    found = np.zeros((2, 2, 10))
    for direction in (0, 1):
        for tenth in range(10):
            count = tenth * len(ranking) // 10
            gone = ranking[:count] if direction == 1 else ranking[len(ranking) - count :]
            picture = pixels.copy()
            for y, x in gone:
                picture[y, x] = 0
            logits = maps(picture)[:, region]
            probabilities = np.exp(logits) / np.exp(logits).sum(0)
            found[:, direction, tenth] = probabilities[target].mean(), logits[target].mean()
    network.float()
    return found


def test_places_among_chosen_pixels_with_ties() -> None:
    rng = np.random.default_rng(0)
    maps = torch.from_numpy(rng.integers(-2, 3, (3, 5, 6))).float()
    chosen = torch.from_numpy(rng.random((3, 5, 6)) < 0.6)
    found = places_among(removal_places(maps, (5, 6)), chosen)
    for heat, which, places in zip(maps.flatten(1), chosen.flatten(1), found.flatten(1), strict=True):
        ranking = sorted(which.nonzero()[:, 0].tolist(), key=lambda place: (-heat[place], place))
        assert [places.tolist().index(rank) for rank in range(len(ranking))] == ranking
        assert (places[~which] == -1).all()


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_against_a_slow_loop(batch_size: int) -> None:
    tested = model_under_test(conv(), 0.4, 0.3)
    images = [picture(14, 17, seed) for seed in range(3)]
    pairs = [find_pair(tested, image, 0, target, f"{target}") for image in images for target in (1, 2)]
    steps, found = finish(
        evaluate_regions(tested, pairs, explainer_named("input_x_gradient", tested.model), batch_size=batch_size)
    )
    assert steps == 6 and found["probability"].shape == found["logit"].shape == (6, 2, 2, 10)
    compared = 0
    for row, pair in enumerate(pairs):
        inside = pair.region.numpy()
        assert found["pixels"][row].tolist() == [int((~inside).sum()), int(inside.sum())]
        if not inside.any() or inside.all():
            continue
        adapted = cnnseg.adapt(tested.model.network, pair.region[None, None])
        relevance = cnnseg.explain(adapted, pair.inputs, pair.target, "input_x_gradient").maps[0].numpy()
        for place, where in enumerate((~inside, inside)):
            due = slow_scores(tested, images[row // 2], pair.target, relevance, where)
            np.testing.assert_allclose(found["probability"][row, place], due[0], atol=2e-5)
            np.testing.assert_allclose(found["logit"][row, place], due[1], atol=2e-4)
            compared += 1
    assert compared >= 6


def test_areas_of_a_network_that_looks_at_known_pixels() -> None:
    """10 x 10 pixels, the region is the whole image's class 1; the network counts how many of the watched ten are lit.

    A map that is right about them has a positive curve that has fallen to the bottom at the first tenth, and a negative
    one that does not fall; a map that is wrong has them the other way round.
    """
    watched = torch.zeros(10, 10, dtype=torch.bool)
    watched[3] = True
    strength = 4.0
    model = Adapted(Known(watched, strength))
    right = Explainer("right", lambda m, x, t: watched.float().expand(len(x), 10, 10))
    wrong = Explainer("wrong", lambda m, x, t: -watched.float().expand(len(x), 10, 10))
    tested = model_under_test(model)
    pair = find_pair(tested, Image.new("RGB", (10, 10), "white"), 0, 1, "white")
    assert pair.region.all()
    high, low = 1 / (1 + np.exp(-strength)), 0.5
    for explainer, falls in ((right, 1), (wrong, 0)):
        _, found = finish(evaluate_regions(tested, [pair], explainer))
        assert np.isnan(found["probability"][0, 0]).all()  # there is nothing outside
        inside = found["probability"][0, 1]
        np.testing.assert_allclose(inside[1 - falls], high, rtol=1e-6)
        np.testing.assert_allclose(inside[falls], [high] + [low] * 9, rtol=1e-6)
        figures = region_figures({"ids": np.array(["white"]), **found}).values
        area = 100 * (0.1 * (high + low) / 2 + 0.8 * low)
        names = ("inside_negative", "inside_positive")
        assert figures[names[falls]] == pytest.approx(area, rel=1e-6)
        assert figures[names[1 - falls]] == pytest.approx(90 * high, rel=1e-6)
        assert figures["outside_negative"] is None and figures["clean_probability"] == pytest.approx(100 * high)
        assert figures["clean_logit"] == pytest.approx(strength)
        assert figures[f"{names[falls]}_logit"] == pytest.approx(0.1 * strength / 2 / 0.9)
        assert figures[f"{names[1 - falls]}_logit"] == pytest.approx(strength)


def test_only_pixels_outside_are_removed_outside_and_only_those_inside_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = model_under_test(conv(1))
    pair = next(
        pair
        for pair in (find_pair(tested, picture(seed=seed), 0, 1, "it") for seed in range(20))
        if 0.2 < pair.region.float().mean() < 0.8
    )
    shown: list[Tensor] = []
    plain = regions.region_scores
    monkeypatch.setattr(regions, "region_scores", lambda m, x, p: shown.append(x.clone()) or plain(m, x, p))
    finish(evaluate_regions(tested, [pair], explainer_named("random", tested.model), batch_size=100))
    clean, *removed = shown
    assert (clean == pair.inputs).all() and [len(batch) for batch in removed] == [18, 18]
    for batch, where in zip(removed, (~pair.region, pair.region), strict=True):
        changed = (batch != pair.inputs).any(1)
        assert not changed[:, ~where].any()
        count = int(where.sum())
        black = (batch == tested.black()).all(1)[:, where].sum(1)
        assert black.tolist() == [tenth * count // 10 for tenth in range(1, 10)] * 2
        assert (changed[:9] & changed[9:].flip(0))[4].sum() <= 1  # half from below and half from above are two halves


def test_pairs_without_a_region_are_left_out_of_the_means() -> None:
    tested = model_under_test(conv())
    pairs = [
        find_pair(tested, picture(seed=seed), 0, target, f"{seed}.{target}") for seed in range(4) for target in (1, 2)
    ]
    shares = [float(pair.region.float().mean()) for pair in pairs]
    least = sorted(share for share in shares if share)[2] - 1e-6
    explainer = explainer_named("random", tested.model)
    _, found = finish(evaluate_regions(tested, pairs, explainer, least=least))
    kept = np.isfinite(found["probability"]).all((1, 2, 3)) | (found["pixels"][:, 0] == 0)
    assert [share >= least for share in shares] == kept.tolist() and 0 < kept.sum() < 8
    ids = np.array([pair.id for pair in pairs])
    some = {key: value[kept] for key, value in found.items()}
    all_of_them, of_some = region_figures({"ids": ids, **found}), region_figures({"ids": ids[kept], **some})
    for key, value in all_of_them.values.items():
        assert value == pytest.approx(of_some.values[key])
    assert all_of_them.curves.keys() == of_some.curves.keys()
    for key, curve in all_of_them.curves.items():
        assert curve == pytest.approx(of_some.curves[key])


def test_a_difference_is_paired() -> None:
    tested = model_under_test(conv())
    pairs = [find_pair(tested, picture(seed=seed), 0, 1, str(seed)) for seed in range(8)]
    found = []
    for name in ("random", "input_x_gradient"):
        explainer = explainer_named(name, tested.model)
        found.append({"ids": np.array([p.id for p in pairs]), **finish(evaluate_regions(tested, pairs, explainer))[1]})
    difference = paired_difference("region", *found)
    first, second = (region_figures(one).values for one in found)
    for key, (value, low, high) in difference.items():
        assert value == pytest.approx(second[key] - first[key], abs=1e-9) and low <= value <= high
    shuffled = {key: value[::-1] for key, value in found[1].items()}
    assert paired_difference("region", found[0], shuffled)["inside_positive"][0] == pytest.approx(
        difference["inside_positive"][0]
    )


def test_random_maps_are_those_of_image_and_class_alone() -> None:
    images = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, 2], [1, 2], [2, 1]])
    together = random_maps(nn.Identity(), images, targets)
    for row in range(3):
        for column in range(2):
            alone = random_maps(nn.Identity(), images[row : row + 1], targets[row : row + 1, column])
            assert (alone[0] == together[row, column]).all()
    assert len({float(value) for value in together[:, :, 0, 0].flatten()}) == 6


def test_large_images_are_shrunk_in_their_own_proportions() -> None:
    tested = model_under_test(conv())
    pair = find_pair(tested, picture(60, 90), 30, 1, "it")
    height, width = pair.inputs.shape[2:]
    assert abs(height * width - 900) < 40 and abs(width / height - 1.5) < 0.05
    assert find_pair(tested, picture(60, 90), 0, 1, "it").inputs.shape[2:] == (60, 90)
    assert find_pair(tested, picture(6, 9), 30, 1, "it").inputs.shape[2:] == (6, 9)


# --- the command ---


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    what = SegmentationConfig(decoder="fpn", encoder="mobilenetv3_small_050", weights="none")
    made: Network = create_segmentation(what, NAMES)
    nn.init.normal_(made.module.segmentation_head[0].weight, std=3.0)
    save_network(made, path)
    return path


METHODS = ("--methods", "gradcam@decoder.p2", "lrp:epsilon_plus", "random")


def test_of(network: Path, data: Path, runs: Path, *more: object) -> int:
    tokens = ("--network", network, "--data", data, "--split", "val", "--runs", runs, "--device", "cpu", *more)
    return run(cli.app, ["region-test", *map(str, tokens)])


test_of.__test__ = False  # type: ignore[attr-defined]


def test_the_command_writes_figures_that_compare(network: Path, data: Path, tmp_path: Path, capsys) -> None:
    assert test_of(network, data, tmp_path, *METHODS) == 0
    printed = capsys.readouterr().out
    assert "of 5 pairs of image and class have a region" in printed and "minus random" not in printed
    assert "minus net.gradcam" in printed or "minus gradcam" in printed
    assert (tmp_path / "net.region.tiny_val.png").is_file()
    folders = [tmp_path / f"net.{name}" for name in ("gradcam.decoder.p2", "lrp.epsilon_plus", "random")]
    pairs = pairs_of(load_dataset(data, "val"))
    assert [pair.id for pair in pairs] == ["a.cat", "b.dog", "c.cat", "c.dog", "d.cat"]
    for folder in folders:
        (entry,) = read_tests(folder)
        results = read_results(folder / entry.folder)
        assert entry.test == "region" and results["ids"].tolist() == [pair.id for pair in pairs]
        assert entry.figures == region_figures(results).values and "mean softmax probability" in entry.protocol
    (section,) = test_sections({folder.name: folder for folder in folders})
    assert section.baseline and section.rows[1].differences is not None
    assert run_compare(tmp_path, [folder.name for folder in folders]) == 0
    page = (tmp_path / "compared.html").read_text()
    assert "Region test on tiny / val" in page and "probability of the class in its region" in page


def run_compare(runs: Path, names: list[str]) -> int:
    from wsss.cli import app

    return run(app, ["compare", *names, "--runs", str(runs), "--out", str(runs / "compared.html")])


def test_killed_and_resumed_is_as_uninterrupted(
    network: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from wsss.explanation_tests import commands, evaluations

    monkeypatch.setattr(commands, "PAIRS", 2)
    assert test_of(network, data, tmp_path / "whole", *METHODS) == 0
    written = 0
    real = evaluations.write_part

    def write(*args) -> None:
        nonlocal written
        if written == 4:
            raise KeyboardInterrupt
        written += 1
        real(*args)

    monkeypatch.setattr(evaluations, "write_part", write)
    assert test_of(network, data, tmp_path / "killed", *METHODS) == 130
    monkeypatch.setattr(evaluations, "write_part", real)
    capsys.readouterr()
    assert test_of(network, data, tmp_path / "killed", *METHODS) == 0
    assert "are there already" in capsys.readouterr().out
    for name in ("gradcam.decoder.p2", "lrp.epsilon_plus", "random"):
        first, second = (
            read_results(tmp_path / folder / f"net.{name}/region/tiny_val") for folder in ("whole", "killed")
        )
        assert first.keys() == second.keys()
        for key in first:
            np.testing.assert_array_equal(first[key], second[key])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (("--methods", "gradcm"), "--methods gradcm: method 'gradcm' is unknown: did you mean 'gradcam'"),
        (("--methods", "gradcam@encodr"), "layer 'encodr' is unknown"),
        (("--methods", "lrp:epsilonplus"), "epsilonplus"),
        (("--methods", "gradcam:epsilon_plus"), "rules: method gradcam has none"),
        (("--methods", "input_x_gradient@encoder"), "looks at none of its own"),
        (("--methods", "random@encoder"), "random has neither rules nor layer"),
        (("--methods", "cam"), "method cam: needs a CNN"),
        (("--methods", "gradcam", "gradcam@encoder"), "two of them are one and the same"),
        (("--least", "2"), "least"),
        (("--score", "loss"), "score"),
    ],
)
def test_bad_options_end_in_one_line(network: Path, data: Path, tmp_path: Path, capsys, tokens, message: str) -> None:
    assert test_of(network, data, tmp_path, *tokens) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_a_split_without_regions_is_said_so(data: Path, tmp_path: Path, capsys) -> None:
    made = create_segmentation(
        SegmentationConfig(decoder="fpn", encoder="mobilenetv3_small_050", weights="none"), NAMES
    )
    nn.init.zeros_(made.module.segmentation_head[0].weight)  # all maps are equal, and so all is background
    save_network(made, tmp_path / "blind.safetensors")
    assert test_of(tmp_path / "blind.safetensors", data, tmp_path, "--methods", "random") == 2
    assert "no region of 0.50% of its image; give a smaller --least" in capsys.readouterr().err


def test_a_run_of_other_settings_is_not_gone_on_with(network: Path, data: Path, tmp_path: Path, capsys) -> None:
    one = ("--methods", "random")
    assert test_of(network, data, tmp_path, *one) == 0
    assert test_of(network, data, tmp_path, *one, "--least", "0.1") == 2
    assert "config.least was 0.005, is 0.1 now" in capsys.readouterr().err


def test_networks_without_maps_and_other_classes_are_refused(data: Path, tmp_path: Path, capsys) -> None:
    what = SegmentationConfig(decoder="fpn", encoder="mobilenetv3_small_050", weights="none")
    save_network(create_segmentation(what, ("cat", "horse")), tmp_path / "other.safetensors")
    assert test_of(tmp_path / "other.safetensors", data, tmp_path, "--methods", "random") == 2
    assert "class 'dog' of data set tiny is not one of the model's" in capsys.readouterr().err
    assert test_of(tmp_path / "none", data, tmp_path) == 2
    with pytest.raises(InputError, match="not finite"):
        broken = conv()
        nn.init.constant_(broken.network.layer.bias, float("nan"))
        find_pair(model_under_test(broken), picture(), 0, 1, "it")
    assert isinstance(find_pair(model_under_test(conv()), picture(), 0, 1, "it"), Pair)

"""Both tests of any callable on any model: against slow loops straight from the protocols, and from Python."""

from __future__ import annotations

import doctest
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from test_perturbation_test import bilinear, head, small_classifier, wordnet
from torch import Tensor, nn

import wsss
from wsss.data import Dataset
from wsss.errors import InputError
from wsss.explanation import NEGATIVE, Explanation
from wsss.explanation_tests import api, evaluations
from wsss.explanation_tests.evaluations import PROTOCOL, open_evaluations, write_part
from wsss.explanation_tests.explainer import Explainer
from wsss.explanation_tests.perturbation import removal_places
from wsss.explanation_tests.segmentation import enlarge
from wsss.explanation_tests.settings import EvaluationConfig
from wsss.explanation_tests.targets import target_outputs
from wsss.explanation_tests.tested import ModelUnderTest
from wsss.store import read_json, write_json

SIDE = 20
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


class Net(nn.Module):
    """A small CNN whose answers depend on the image; with dropout, so that its mode matters."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5))
        self.head = nn.Linear(8 * 6 * 6, outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


def net(outputs: int = 4, seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net(outputs).double().eval()


def pictures(count: int, seed: int = 1) -> Tensor:
    """Normalised, smooth, float64."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(count, 3, 5, 5, generator=generator, dtype=torch.float64)
    images = nn.functional.interpolate(rough, (SIDE, SIDE), mode="nearest")
    return (images - torch.tensor(MEAN)[:, None, None].double()) / torch.tensor(STD)[:, None, None].double()


def noise(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Signed maps on a coarse grid that hang on image and target alone."""
    maps = []
    for image, target in zip(images, targets, strict=True):
        generator = torch.Generator().manual_seed(int(image.abs().sum() * 1e6) + 7 * int(target))
        maps.append(torch.randn(5, 4 + 1, generator=generator, dtype=torch.float64))
    return torch.stack(maps)


def constant(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return torch.full((len(images), 2, 2), -3.0, dtype=images.dtype)


def input_gradient(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Input times gradient, needs a graph; of one output the other class has minus it."""
    images = images.clone().requires_grad_()
    scores = model(images)
    rows = torch.arange(len(images))
    wanted = scores[rows, targets.clamp(min=0)] * torch.where(targets < 0, -1, 1)
    return (images * torch.autograd.grad(wanted.sum(), images)[0]).sum(1)


def answer(model: nn.Module, image: Tensor) -> int:
    with torch.no_grad():
        scores = model(image[None])[0].tolist()
    return scores.index(max(scores)) if len(scores) > 1 else (0 if scores[0] > 0 else -1)


def slow_perturbation(model: nn.Module, explain: Callable, image: Tensor, target: int) -> tuple[int, np.ndarray]:
    predicted, correct = answer(model, image), np.zeros((2, 2, 10), bool)
    black = torch.tensor([-m / s for m, s in zip(MEAN, STD, strict=True)], dtype=torch.float64)
    for which, explained in enumerate((predicted, target)):
        small = explain(model, image[None], torch.tensor([explained]))[0].detach()
        relevance = (small.numpy() if small.shape[0] == SIDE else bilinear(small.numpy(), SIDE)).ravel()
        ranking = sorted(range(SIDE * SIDE), key=lambda place: (-relevance[place], place))
        for direction in (0, 1):
            for tenth in range(10):
                count = tenth * SIDE * SIDE // 10
                gone = ranking[:count] if direction == 1 else ranking[len(ranking) - count :]
                changed = image.clone()
                for place in gone:
                    changed[:, place // SIDE, place % SIDE] = black
                correct[which, direction, tenth] = answer(model, changed) == target
    return predicted, correct


@pytest.mark.parametrize("explain", [noise, constant, input_gradient])
@pytest.mark.parametrize("outputs", [4, 1])
def test_perturbation_against_the_protocol(explain: Callable, outputs: int) -> None:
    model, images = net(outputs), pictures(7)
    clean = [answer(model, image) for image in images]
    wrong = [(c + 1) % 4 for c in clean] if outputs > 1 else [NEGATIVE - c for c in clean]
    targets = clean[:4] + wrong[4:]
    assert set(clean) == {0, NEGATIVE} if outputs == 1 else len(set(clean)) > 1
    result = wsss.perturbation_test(model, explain, images, targets, mean=MEAN, std=STD, batch_size=3)
    for place, (image, target) in enumerate(zip(images, targets, strict=True)):
        predicted, correct = slow_perturbation(model, explain, image, target)
        assert (result.results["predicted"][place], result.results["target"][place]) == (predicted, target)
        np.testing.assert_array_equal(result.results["correct"][place], correct)
    correct = result.results["correct"]
    for direction, word in enumerate(("negative", "positive")):
        for which, explained in enumerate(("predicted", "target")):
            curve = correct[:, which, direction].mean(0)
            area = 100 * sum((a + b) / 2 * 0.1 for a, b in pairwise(curve))
            key = f"{word}_{explained}"
            assert result.figures[key] == pytest.approx(area)
            assert result.curves[key] == pytest.approx(100 * curve)
            low, high = result.intervals[key]
            assert low <= area <= high
    assert result.figures["clean_accuracy"] == pytest.approx(100 * 4 / 7)
    assert (result.test, result.method, result.model) == ("perturbation", explain.__name__, "Net")
    assert result.protocol.startswith("7 images; ") and "negative_target" in str(result)


@pytest.mark.parametrize("outputs", [4, 1])
@pytest.mark.parametrize("explain", [noise, constant, input_gradient])
def test_segmentation_against_the_protocol(explain: Callable, outputs: int) -> None:
    model, images = net(outputs), pictures(6)
    rng = np.random.default_rng(0)
    truths = rng.choice(np.array([0, 1, 255], np.uint8), (6, SIDE, SIDE), p=(0.5, 0.4, 0.1))
    result = wsss.segmentation_test(model, explain, images, truths, batch_size=4)
    total = np.zeros((2, 2))
    for place, (image, truth) in enumerate(zip(images, truths, strict=True)):
        predicted = answer(model, image)
        small = explain(model, image[None], torch.tensor([predicted]))[0].detach().numpy()
        full = bilinear(small, SIDE) if len(small) != SIDE else small
        spread = full.max() - full.min()
        scaled = (full - full.min()) / spread if spread > 1e-9 else np.zeros_like(full)
        kept = truth != 255
        chosen, right = (scaled > scaled.mean())[kept], truth[kept] == 1
        expected = np.array([[(~right & ~chosen).sum(), (~right & chosen).sum()], [(right & ~chosen).sum(), 0]])
        expected[1, 1] = (right & chosen).sum()
        total += expected
        assert result.results["predicted"][place] == predicted
        np.testing.assert_array_equal(result.results["confusion"][place], expected)
        both = np.concatenate([1 - scaled[kept], scaled[kept]])
        precision = average_precision_score(np.concatenate([~right, right]), both)
        assert result.results["ap"][place] == pytest.approx(precision, abs=1e-3)  # rounding splits ties along borders
        assert result.results["f1"][place] == pytest.approx(f1_score(right, chosen))
    ious = [total[k, k] / (total[k].sum() + total[:, k].sum() - total[k, k]) for k in (0, 1)]
    assert result.figures["miou"] == pytest.approx(100 * np.mean(ious))
    assert result.figures["pixel_accuracy"] == pytest.approx(100 * np.trace(total) / total.sum())


def test_a_constant_map_shows_nothing_whatever_its_value() -> None:
    """Interpolation rounds a constant to values that differ in the last bit."""
    maps = torch.tensor([-3.0, 0.1, 0])[:, None, None].expand(3, 2, 2)
    assert not enlarge(maps, (SIDE, SIDE)).any()
    for places in removal_places(maps.double(), (SIDE, SIDE)):
        assert places.flatten().tolist() == list(range(SIDE * SIDE))
    assert enlarge(torch.tensor([[[1.0, torch.nan]]]), (4, 4)).isnan().all()


def test_calls_have_one_target_an_image_unless_many_are_taken() -> None:
    model, images = net(), pictures(6)
    targets = [(answer(model, image) + 1) % 4 for image in images]
    shapes: list[tuple[int, ...]] = []

    def one(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        shapes.append(tuple(targets.shape))
        assert targets.dtype == torch.int64 and len(targets) == len(images) and torch.is_grad_enabled()
        return noise(model, images, targets)

    def several(model: nn.Module, images: Tensor, targets: Tensor) -> Explanation:
        shapes.append(tuple(targets.shape))
        maps = [noise(model, images, column) for column in (targets.T if targets.ndim == 2 else targets[None])]
        stacked = torch.stack(maps, 1)
        return Explanation(stacked if targets.ndim == 2 else stacked[:, 0], targets, torch.zeros(0), "several")

    how = {"mean": MEAN, "std": STD, "batch_size": 4}
    with torch.inference_mode():
        first = wsss.perturbation_test(model, one, images, targets, **how)
    assert shapes == [(4,)] * 3
    shapes.clear()
    second = wsss.perturbation_test(model, several, images, targets, many=True, **how)
    assert shapes == [(2, 2)] * 3
    np.testing.assert_array_equal(first.results["correct"], second.results["correct"])
    shapes.clear()
    flat = wsss.perturbation_test(model, one, images, targets, class_specific=False, **how)
    assert shapes == [(4,), (2,)]  # the map of the predicted class alone
    np.testing.assert_array_equal(flat.results["correct"][:, 1], first.results["correct"][:, 0])


def test_batches_of_any_kind_make_no_difference() -> None:
    model, images = net(), pictures(9)
    targets = torch.arange(9) % 4
    how = {"mean": MEAN, "std": STD}
    whole = wsss.perturbation_test(model, noise, images, targets, **how)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, targets), batch_size=4)
    given = [
        wsss.perturbation_test(model, noise, images.split(2), targets, batch_size=5, **how),
        wsss.perturbation_test(model, noise, loader, **how),
        wsss.perturbation_test(model, noise, iter(images.split(9)), targets.tolist(), **how),
    ]
    for other in given:
        assert other.figures == whole.figures
        for key in whole.results:
            np.testing.assert_array_equal(other.results[key], whole.results[key])
    masks = images[:, 0] > 0
    one = wsss.segmentation_test(model, noise, images, masks)
    pairs = [(images[:4], masks[:4]), (images[4:], masks[4:].int())]
    other = wsss.segmentation_test(model, noise, pairs)
    np.testing.assert_array_equal(one.results["confusion"], other.results["confusion"])


def test_the_model_is_left_as_found() -> None:
    model, images = net(), pictures(4)
    model.train()
    model.head.eval()
    modes = [module.training for module in model.modules()]
    results = [
        wsss.perturbation_test(model, input_gradient, images, [0, 1, 2, 3], mean=MEAN, std=STD).results["correct"]
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*results)  # no dropout
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(InputError):
        wsss.perturbation_test(model, lambda *_: None, images, [0, 1, 2, 3], mean=MEAN, std=STD)
    assert [module.training for module in model.modules()] == modes


def test_images_follow_the_model() -> None:
    """Another precision than the model's, and numbers that are to be black at 0 of images in [0, 1]."""
    model, images = net().float(), pictures(3)
    seen = []

    def explain(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        seen.append(images.dtype)
        return noise(model, images, targets).bfloat16()

    wsss.perturbation_test(model, explain, images, [0, 1, 2], mean=(0, 0, 0), std=(1, 1, 1))
    assert set(seen) == {torch.float32}
    black = ModelUnderTest(model, (), MEAN, STD, (0, 0), "").black()
    torch.testing.assert_close(black[0, :, 0, 0], -torch.tensor(MEAN) / torch.tensor(STD))


def test_explanations_of_the_package_are_callables_too() -> None:
    import vitseg

    model = small_classifier().model
    images = torch.randn(3, 3, 160, 160, generator=torch.Generator().manual_seed(0))

    def rollout(model: nn.Module, images: Tensor, targets: Tensor) -> Explanation:
        return vitseg.explain(model, images, targets, "rollout")

    by_explanation = wsss.perturbation_test(model, rollout, images, [0, 1, 2], mean=MEAN, std=STD)
    by_maps = wsss.perturbation_test(model, lambda *a: rollout(*a).maps, images, [0, 1, 2], mean=MEAN, std=STD)
    assert by_explanation.figures == by_maps.figures and by_maps.method == "explainer"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda maps: maps.numpy(), r"explainer bad: expected a torch.Tensor \(3, h, w\), got a ndarray"),
        (lambda maps: maps[:2], r"gave maps of shape \(2, 5, 5\) for 3 images and targets of shape \(3,\)"),
        (lambda maps: maps[:, None], r"expected \(3, h, w\); maps.sum\(1\) adds up channels"),
        (lambda maps: maps.mean((1, 2)), r"gave maps of shape \(3,\)"),
        (lambda maps: maps[:, :0], r"gave maps of shape \(3, 0, 5\)"),
        (lambda maps: maps.to("meta"), "explainer bad: gave maps on meta; the images are on cpu"),
        (lambda maps: maps.to(torch.complex64), "explainer bad: expected maps of real numbers, got torch.complex64"),
        (lambda maps: maps.where(maps != maps[1, 2, 2], torch.nan), "image b: the bad map is not finite; try float64"),
    ],
)
def test_bad_callables_take_one_line(broken: Callable[[Tensor], object], said: str) -> None:
    def bad(model: nn.Module, images: Tensor, targets: Tensor) -> object:
        return broken(noise(model, images, targets))

    model, images = net(), pictures(3)
    names = {"ids": ["a", "b", "c"]}
    targets = [answer(model, image) for image in images]
    with pytest.raises(InputError, match=said) as raised:
        wsss.perturbation_test(model, bad, images, targets, mean=MEAN, std=STD, **names)
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=said):
        wsss.segmentation_test(model, bad, images, images[:, 0] > 0, **names)


def test_bad_input_takes_one_line() -> None:
    model, images, targets = net(), pictures(3), [0, 1, 2]

    def refused(said: str, *, images: object = images, targets: object = targets, model: object = model, **how) -> None:
        with pytest.raises(InputError, match=said) as raised:
            how = {"mean": MEAN, "std": STD} | how
            wsss.perturbation_test(model, how.pop("explainer", noise), images, targets, **how)
        assert "\n" not in str(raised.value)

    refused("targets: expected classes 0 to 3, got 0 to 9", targets=[0, 1, 9])
    refused(
        "targets: expected classes -1 to 0, got 0 to 1; of one output 0 is that output", model=net(1), targets=[0, 1, 1]
    )
    refused(r"targets: expected one for each of 3 images|targets: 2, but there are more", targets=[0, 1])
    refused("targets: expected one for each of 3 images, got 4", targets=[0, 1, 2, 3])
    refused("targets: 4 for a batch of 3 images", targets=None, images=[(images, torch.arange(4))])
    refused(r"targets: expected integers .*, got float64 \(3,\)", targets=[0.0, 1.0, 2.0])
    refused(r"expected integers \(N,\), a class an image, got int64 \(3, 2\)", targets=np.zeros((3, 2), int))
    refused("targets: needed, one an image", targets=None)
    refused("images: expected pairs .* as a batch, got a Tensor", targets=None, images=[images])
    refused("images: expected tensors .*as a batch, got 2 things", images=[(images, targets)])
    refused(r"expected \(B, 3, H, W\), B >= 1, got .*; one image is images\[None\]", images=images[0])
    refused("images: expected a torch.Tensor", images=[(images.numpy(), targets)], targets=None)
    refused("images: expected normalised ones of a float type, got torch.uint8", images=images.byte())
    refused("images: none", images=[], targets=[0])
    refused("mean .*expected a number for each channel", mean=(0.5,))
    refused("images: expected 1 channel, as mean has, got 3", mean=(0.5,), std=(1,))
    refused("std above 0", std=(0, 1, 1))
    refused("explainer: expected a callable", explainer="rollout")
    refused("model: expected a torch.nn.Module, got a function", model=noise)
    refused("model Tuple: gives a tuple for 3 images; expected logits", model=Tuple())
    refused("model Sequential: gives NaN", model=nn.Sequential(net(), Nan()))
    refused("ids: expected each once", ids=["a", "a", "b"])
    refused("ids: 2, but there are more images", ids=["a", "b"])
    refused("batch_size 0", batch_size=0)
    masks = np.ones((3, SIDE, SIDE), np.uint8)
    for wrong, said in (
        (masks * 2, "of class c give masks == c"),
        (masks[:, :5], r"masks: expected \(20, 20\), as the images, got \(5, 20\)"),
        (masks[0], r"masks: expected \(N, H, W\), got \(20, 20\)"),
        (np.stack([masks[0] * 0, masks[0] * 255, masks[0] * 0]), "hold 0 and 255 alone"),
        (masks[:2], "masks: 2, but there are more images"),
    ):
        with pytest.raises(InputError, match=said):
            wsss.segmentation_test(model, noise, images, wrong)


class Tuple(Net):
    def __init__(self) -> None:
        super().__init__(4)
        self.double()

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        return super().forward(images), None


class Nan(nn.Module):
    def forward(self, scores: Tensor) -> Tensor:
        return scores * torch.nan


def test_two_results_are_compared_image_by_image() -> None:
    model, images = net(), pictures(12)
    targets = [answer(model, image) for image in images]
    how = {"mean": MEAN, "std": STD, "ids": [f"i{place}" for place in range(12)]}
    first = wsss.perturbation_test(model, noise, images, targets, **how)
    second = wsss.perturbation_test(model, input_gradient, images, targets, **how)
    back = wsss.perturbation_test(
        model, input_gradient, images.flip(0), targets[::-1], **(how | {"ids": how["ids"][::-1]})
    )
    for other in (second, back):
        differences = wsss.compare_tests(first, other)
        for key, (difference, low, high) in differences.items():
            assert difference == pytest.approx(other.figures[key] - first.figures[key])
            assert low <= difference <= high
    assert all(abs(value) < 1e-9 for span in wsss.compare_tests(second, back).values() for value in span)
    segmentation = wsss.segmentation_test(model, noise, images, images[:, 0] > 0, ids=how["ids"])
    same = wsss.compare_tests(segmentation, segmentation)
    assert set(same) == {"pixel_accuracy", "map", "miou", "mf1"} and not np.array(list(same.values())).any()
    with pytest.raises(InputError, match="a perturbation test and a segmentation test do not compare"):
        wsss.compare_tests(first, segmentation)
    with pytest.raises(InputError, match="image i0: target"):
        shifted = [(target + 1) % 4 for target in targets]
        wsss.compare_tests(first, wsss.perturbation_test(model, noise, images, shifted, **how))
    with pytest.raises(InputError, match="in the results of one run alone"):
        fewer = wsss.perturbation_test(model, noise, images[:5], targets[:5], mean=MEAN, std=STD, ids=how["ids"][:5])
        wsss.compare_tests(first, fewer)


def test_examples_of_the_docstrings() -> None:
    found = doctest.testmod(api)
    assert found.attempted > 10 and not found.failed


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = "import sys, wsss, wsss.explanation_tests.settings, wsss.explanation_tests.options; "
    code += "assert 'torch' not in sys.modules; "
    code += "wsss.perturbation_test; assert 'torch' in sys.modules; "
    code += "assert not {name.split('.')[0] for name in sys.modules} & {'vitseg', 'cnnseg', 'affinity'}"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = wsss.nothing


# --- what the commands are made of ------------------------------------------------------------------------------------


def test_the_background_is_neither_target_nor_prediction() -> None:
    tested = head(("dog", "bird", "cat"), first_class=1)
    assert target_outputs(tested, wordnet(("cat", "dog", "zebra"), [(1,), (2,)])) == [3, 1]
    assert tested.predict(torch.tensor([[9.0, 1, 3, 2], [9, 5, 3, 2]])).tolist() == [2, 1]
    with pytest.raises(InputError, match=r"'background' of data set own is not one of the model's"):
        target_outputs(tested, wordnet(("background",), [(1,)]))
    binary = head(("dog",), first_class=1)  # the only class that is none of the background
    assert binary.predict(torch.tensor([[9.0, 1], [0, 2]])).tolist() == [1, 1]


def test_signed_maps_and_options_of_any_explainer_have_runs(tmp_path: Path) -> None:
    tested = ModelUnderTest(net(), ("a", "b"), MEAN, STD, (SIDE, SIDE), "cnn", "xyz")
    plain = Explainer("lrp", noise, options={"rules": "zero"}, variants=("zero",))
    other = Explainer("lrp", noise, options={"rules": "epsilon_plus", "layer": "l.4"}, variants=("epsilon_plus", "l.4"))
    dataset = wordnet(("a", "b"), [(1,), (2,)])
    evaluations = open_evaluations(
        tested, dataset, "perturbation", [plain, other], EvaluationConfig(precision="float64", limit=2), tmp_path
    )
    assert [evaluation.run.name for evaluation in evaluations] == [
        "cnn.lrp.zero.float64",
        "cnn.lrp.epsilon_plus.l.4.float64",
    ]
    assert [evaluation.settings for evaluation in evaluations] == [
        "rules zero, float64",
        "rules epsilon_plus, layer l.4, float64",
    ]
    with pytest.raises(InputError, match=r"these are 2: lrp\.zero, lrp\.epsilon_plus\.l\.4"):
        open_evaluations(tested, dataset, "perturbation", [plain, other], EvaluationConfig(), tmp_path, "mine")


def old_manifest(dataset: Dataset) -> dict[str, object]:
    """As the toolkit wrote it when vitseg alone had these tests (its commit 9249262)."""
    return {
        "kind": "perturbation_test",
        "config": {
            "protocol": PROTOCOL,
            "method": "transformer_attribution",
            "rules": "exact",
            "first_block": 1,
            "size": [160, 160],
            "limit": None,
        },
        "class_names": list(dataset.class_names),
        "inputs": {"model": "abc", "images": "fe1d5ca1d5b9c5cd"},
        "suffix": ".npz",
        "versions": {},
        "commit": None,
        "history": [],
    }


def test_runs_of_earlier_versions_go_on(tmp_path: Path) -> None:
    from vitseg.settings import EvaluationConfig as VitConfig
    from vitseg.tested import find_explainers, model_under_test

    dataset = wordnet(("cat", "dog"), [(1,), (2,)])
    classifier, config = small_classifier(), VitConfig(methods=("transformer_attribution",), rules="exact")
    tested = model_under_test(classifier, "trained", "abc")
    explainers = find_explainers(classifier.model, config)
    folder = tmp_path / "trained.transformer_attribution.exact/perturbation/own_val"
    (fresh,) = open_evaluations(tested, dataset, "perturbation", explainers, config, tmp_path / "fresh")
    assert fresh.stage.folder.relative_to(tmp_path / "fresh") == folder.relative_to(tmp_path)
    now, then = read_json(fresh.stage.folder / "manifest.json"), old_manifest(dataset)
    same = ("kind", "config", "class_names", "suffix")
    assert {key: now[key] for key in same} == {key: then[key] for key in same}
    assert now["inputs"] == {"model": then["inputs"]["model"]}
    folder.mkdir(parents=True)
    write_json(folder / "manifest.json", then)
    then["inputs"] |= evaluations._times(folder, dataset, masks=False)  # sizes and times, by which it told images
    write_json(folder / "manifest.json", then)
    write_part(folder / "part-00000.npz", dataset.samples, {"predicted": np.zeros(2, int)})
    (evaluation,) = open_evaluations(tested, dataset, "perturbation", explainers, config, tmp_path)
    assert evaluation.stage.folder == folder and not evaluation.stage.pending(["part-00000"])

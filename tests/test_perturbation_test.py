"""The perturbation test: against a slow loop straight from its protocol, resumed, and from the command line."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small_run import finish, make_data
from torch import Tensor, nn

import vitseg.tested
from vitseg.cli import app
from vitseg.explanation import explain
from vitseg.models import Classifier, create_classifier, save_classifier
from vitseg.settings import EvaluationConfig
from vitseg.tested import explainer_of, find_explainers, model_under_test
from wsss.console import run
from wsss.data import Dataset, Sample, paired_folders
from wsss.entries import TestEntry, read_tests
from wsss.errors import InputError
from wsss.explanation_tests import evaluations, perturbation
from wsss.explanation_tests.evaluations import Evaluate, Evaluation, evenly, open_evaluations, run_evaluations
from wsss.explanation_tests.explainer import Explainer
from wsss.explanation_tests.figures import perturbation_figures, read_results
from wsss.explanation_tests.targets import target_outputs
from wsss.explanation_tests.tested import ModelUnderTest, Photographs, classify, squeeze, stack
from wsss.store import read_json, write_json

METHODS = ("rollout", "transformer_attribution")
SIDE = 160  # of timm's test_vit


def small_classifier(class_names: tuple[str, ...] = ("dog", "bird", "cat"), seed: int = 4) -> Classifier:
    """A random ViT whose answers depend on the image, so that removing pixels changes some of them."""
    torch.manual_seed(seed)
    classifier = create_classifier("test_vit", class_names, "none")
    nn.init.normal_(classifier.model.head.weight, std=1)
    nn.init.normal_(classifier.model.patch_embed.proj.weight, std=0.1)
    classifier.model.eval()
    return classifier


def blobs(count: int, size: tuple[int, int] = (50, 70), seed: int = 1) -> list[Image.Image]:
    """Smooth coloured pictures that differ much from each other."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    return [Image.fromarray(s).resize((size[1], size[0]), Image.Resampling.BICUBIC) for s in small]


def judged(classifier: Classifier, name: str = "small") -> ModelUnderTest:
    return model_under_test(classifier, name, "abc")


def explainer(method: str) -> Explainer:
    return explainer_of(method, 2)  # blocks of test_vit


def photographed(classifier: Classifier, pixels: Tensor, ids: Sequence[str], *, batch_size: int = 16) -> Photographs:
    return classify(judged(classifier), pixels, ids, batch_size=batch_size)


def perturb(
    classifier: Classifier, photographs: Photographs, targets: Sequence[int], method: str, *, batch_size: int = 16
) -> Generator[None, None, dict[str, np.ndarray]]:
    due = torch.tensor(targets)
    return perturbation.perturb(judged(classifier), photographs, due, explainer(method), batch_size=batch_size)


def slow_image(classifier: Classifier, image: Image.Image, target: int, method: str) -> tuple[int, np.ndarray]:
    """Predicted class and (2, 2, 10) of one image, in float64 and one step after the other, as the protocol says it."""
    model = classifier.model.double()
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float64) / 255
    mean, std = np.array(classifier.mean), np.array(classifier.std)

    def answer(picture: np.ndarray) -> int:
        inputs = torch.from_numpy(((picture - mean) / std).transpose(2, 0, 1)[None].copy())
        with torch.no_grad():
            return int(model(inputs).argmax())

    predicted = answer(pixels)
    inputs = torch.from_numpy(((pixels - mean) / std).transpose(2, 0, 1)[None].copy()).float()
    model.float()
    maps = [explain(model, inputs, explained, method).maps[0].double().numpy() for explained in (predicted, target)]
    model.double()
    correct = np.zeros((2, 2, 10), bool)
    for explained, small in enumerate(maps):
        relevance = bilinear(small, SIDE).astype(np.float32).ravel()
        ranking = sorted(range(SIDE * SIDE), key=lambda place: (-relevance[place], place))
        for direction in (0, 1):
            for step, fraction in enumerate((0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)):
                count = round(fraction * SIDE * SIDE)  # whole for this size
                gone = ranking[:count] if direction == 1 else ranking[len(ranking) - count :]
                picture = pixels.reshape(-1, 3).copy()
                picture[gone] = 0
                correct[explained, direction, step] = answer(picture.reshape(pixels.shape)) == target
    model.float()
    return predicted, correct


def bilinear(small: np.ndarray, side: int) -> np.ndarray:
    """(h, w) to (side, side), pixel centres at half integers, the border's value beyond it."""
    places = (np.arange(side) + 0.5) * len(small) / side - 0.5
    low = np.clip(np.floor(places).astype(int), 0, len(small) - 1)
    high = np.minimum(low + 1, len(small) - 1)
    weight = np.clip(places, 0, None) - low
    rows = small[low] * (1 - weight)[:, None] + small[high] * weight[:, None]
    return rows[:, low] * (1 - weight) + rows[:, high] * weight


def test_places_against_a_sort_with_ties() -> None:
    maps = torch.tensor([[[3.0, -1, 3], [0, 0, 5]], [[1, 1, 1], [1, 1, 1]]])
    places = perturbation.removal_places(maps, (2, 3))
    assert places.tolist() == [[[1, 5, 2], [3, 4, 0]], [[0, 1, 2], [3, 4, 5]]]
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(-9, 9, (2, 3, 3), generator=generator).float()  # doubled in size, all values are exact
    for small, found in zip(maps.numpy(), perturbation.removal_places(maps, (6, 6)), strict=True):
        relevance = bilinear(small, 6).ravel()
        assert len(set(relevance.tolist())) < 36  # equal values are among them
        ranking = sorted(range(36), key=lambda place: (-relevance[place], place))
        assert [found.flatten().tolist().index(place) for place in range(36)] == ranking


@pytest.mark.parametrize("method", METHODS)
def test_against_the_protocol(method: str) -> None:
    classifier, images = small_classifier(), blobs(5)
    pixels = stack([squeeze(image, (SIDE, SIDE)) for image in images])
    ids = [f"i{place}" for place in range(5)]
    clean = photographed(classifier, pixels, ids).predicted.tolist()
    targets = [*clean[:3], *((c + 1) % 3 for c in clean[3:])]  # two images are classified wrongly
    photographs = photographed(classifier, pixels, ids, batch_size=2)
    steps, found = finish(perturb(classifier, photographs, targets, method, batch_size=3))
    assert steps == 5
    for place, (image, target) in enumerate(zip(images, targets, strict=True)):
        predicted, correct = slow_image(classifier, image, target, method)
        assert found["predicted"][place] == predicted and found["target"][place] == target
        np.testing.assert_array_equal(found["correct"][place], correct)
    for direction in (0, 1):  # images in which it matters what is removed, or the test would prove nothing
        assert 0.1 < found["correct"][:3, 0, direction].mean() < 0.95
    differ = (found["correct"][3:, 0] != found["correct"][3:, 1]).any()
    assert differ == (method == "transformer_attribution")


def test_batches_make_no_difference() -> None:
    classifier = small_classifier()
    pixels = stack([squeeze(image, (SIDE, SIDE)) for image in blobs(6)])
    for method in METHODS:
        results = []
        for batch_size in (1, 4, 16):
            how = {"batch_size": batch_size}
            photographs = photographed(classifier, pixels, list("abcdef"), **how)
            results.append(finish(perturb(classifier, photographs, [0, 1, 2, 0, 1, 2], method, **how))[1])
        for other in results[1:]:
            for key in ("predicted", "target", "correct"):
                np.testing.assert_array_equal(results[0][key], other[key])


def test_nothing_is_computed_twice() -> None:
    """18 perturbed images for each map, one map for an image whose prediction is right or whose method has but one."""
    classifier = small_classifier()
    pixels = stack([squeeze(image, (SIDE, SIDE)) for image in blobs(6)])
    clean = photographed(classifier, pixels, list("abcdef")).predicted
    targets = clean.clone()
    targets[4:] = (clean[4:] + 1) % 3
    seen = []
    handle = classifier.model.patch_embed.register_forward_hook(lambda _m, args, _o: seen.append(len(args[0])))
    counts = {}
    for method in METHODS:
        photographs = photographed(classifier, pixels, list("abcdef"))
        seen.clear()
        finish(perturb(classifier, photographs, targets.tolist(), method))
        counts[method] = sum(seen)
    handle.remove()
    assert counts == {"rollout": 6 + 18 * 6, "transformer_attribution": 6 + 18 * (4 + 2 * 2)}


def test_a_map_that_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = small_classifier()
    pixels = stack([squeeze(image, (SIDE, SIDE)) for image in blobs(3)])
    photographs = photographed(classifier, pixels, ["a", "b", "c"])
    real = vitseg.tested.explain

    def broken(model: nn.Module, images: Tensor, *rest: object, **options: object):
        explanation = real(model, images, *rest, **options)
        explanation.maps[1] = torch.nan
        return explanation

    monkeypatch.setattr(vitseg.tested, "explain", broken)
    with pytest.raises(InputError, match="image b: the rollout map is not finite; try `precision` float64"):
        finish(perturb(classifier, photographs, [0, 0, 0], "rollout"))


def wordnet(names: tuple[str, ...], shown: list[tuple[int, ...]]) -> Dataset:
    samples = tuple(Sample(f"i{place}", Path(f"i{place}.png"), classes) for place, classes in enumerate(shown))
    return Dataset("own", "val", Path(), names, samples, np.zeros(256, np.uint8))


def head(class_names: tuple[str, ...], first_class: int = 0) -> ModelUnderTest:
    return ModelUnderTest(nn.Identity(), class_names, (0.5,) * 3, (0.5,) * 3, (8, 8), "head", first_class=first_class)


def test_targets_by_name_and_by_wordnet_id() -> None:
    classifier = head(("dog", "bird", "cat"))
    dataset = wordnet(("cat", "dog", "zebra"), [(1,), (2,), (1,)])
    assert target_outputs(classifier, dataset) == [2, 0, 2]  # zebra is not shown
    with pytest.raises(InputError, match=r"'zebra' of data set own is not one of the model's: .*known: bird, cat, dog"):
        target_outputs(classifier, wordnet(("cat", "dog", "zebra"), [(3,)]))
    many = head(tuple(f"n{c:08d}" for c in range(21_841)))
    with pytest.raises(InputError, match=r"'n00000100x' .*did you mean 'n\d+'\? known: .*\(21841 in all\)$") as raised:
        target_outputs(many, wordnet(("n00000100x",), [(1,)]))
    assert len(str(raised.value)) < 300
    with pytest.raises(InputError, match="image i1: expected one class, as the test needs, got 2"):
        target_outputs(classifier, wordnet(("cat", "dog"), [(1,), (1, 2)]))

    imagenet = head(tuple(map(str, range(1000))))
    names = ("n02123045", "n01440764", "n15075141")  # tabby, tench, toilet tissue
    assert target_outputs(imagenet, wordnet(names, [(1,), (2,), (3,)])) == [281, 0, 999]
    assert target_outputs(imagenet, wordnet(("7", "30"), [(2,), (1,)])) == [30, 7]
    with pytest.raises(InputError, match="class 'tabby' of data set own is no WordNet id of ImageNet-1k"):
        target_outputs(imagenet, wordnet(("tabby",), [(1,)]))


def test_evenly_spread() -> None:
    dataset = wordnet(("a",), [(1,)] * 10)
    assert [sample.id for sample in evenly(dataset, 4)] == ["i0", "i2", "i5", "i7"]
    assert evenly(dataset, None) == evenly(dataset, 10) == evenly(dataset, 99) == dataset


# --- in parts -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluations, "PART", 2)


def evaluations_in(runs: Path, dataset: Dataset, methods: tuple[str, ...] = METHODS) -> list[Evaluation]:
    tested = judged(small_classifier())
    return open_evaluations(
        tested, dataset, "perturbation", [explainer(method) for method in methods], EvaluationConfig(), runs
    )


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, small_parts: None) -> None:
    images = dict(zip((f"i{place}" for place in range(5)), blobs(5, seed=2), strict=True))
    dataset = wordnet(("cat", "dog"), [(1,), (2,), (1,), (2,), (2,)])
    classifier = small_classifier()
    targets = target_outputs(judged(classifier), dataset)
    seen: list[tuple[str, int]] = []

    def prepare(samples, killed_at: int = 99) -> Evaluate:
        pixels = stack([squeeze(images[sample.id], (SIDE, SIDE)) for sample in samples])
        ids = [sample.id for sample in samples]
        photographs = photographed(classifier, pixels, ids)

        def evaluate(one: Evaluation) -> Generator[None, None, dict[str, np.ndarray]]:
            if len(seen) == killed_at:
                raise KeyboardInterrupt
            seen.append((one.method, len(ids)))
            return perturb(classifier, photographs, [targets[int(i[1:])] for i in ids], one.method)

        return evaluate

    whole = evaluations_in(tmp_path / "whole", dataset)
    done = run_evaluations(whole, dataset, prepare, "whole")
    assert {method: counts.images for method, counts in done.items()} == dict.fromkeys(METHODS, 5)
    assert all(counts.seconds > 0 for counts in done.values())
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        run_evaluations(
            evaluations_in(tmp_path / "killed", dataset), dataset, lambda s: prepare(s, killed_at=3), "killed"
        )
    killed = evaluations_in(tmp_path / "killed", dataset)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("part-*.npz")}
    assert len(kept) == 3
    (killed[0].stage.folder / ".part-00001.npz.0123.partial").write_bytes(b"half")
    seen.clear()
    done = run_evaluations(killed, dataset, prepare, "resumed")
    assert seen == [("transformer_attribution", 2), ("rollout", 1), ("transformer_attribution", 1)]
    assert [done[method].images for method in METHODS] == [1, 3]
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    for first, second in zip(whole, killed, strict=True):
        a, b = read_results(first.stage.folder), read_results(second.stage.folder)
        assert a.keys() == b.keys() == {"ids", "predicted", "target", "correct"}
        assert a["ids"].tolist() == list(images)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    (killed[0].stage.folder / "part-00001.npz").write_bytes(b"PK\3\4 cut short")
    seen.clear()
    run_evaluations(killed, dataset, prepare, "mended")
    assert seen == [("rollout", 2)]


def test_float64_runs_beside_float32(tmp_path: Path) -> None:
    dataset, classifier = wordnet(("cat",), [(1,)]), small_classifier()
    tested, found = judged(classifier), {}
    pixels = stack([squeeze(image, (SIDE, SIDE)) for image in blobs(2)])
    for precision in ("float32", "float64"):
        config = EvaluationConfig(precision=precision)
        (one,) = open_evaluations(tested, dataset, "perturbation", [explainer("rollout")], config, tmp_path)
        tested.to("cpu", precision)
        dtype = getattr(torch, precision)
        inputs = tested.inputs(pixels)
        assert inputs.dtype == dtype
        expected = (pixels.double() / 255 - torch.tensor(classifier.mean, dtype=torch.float64)[:, None, None]) / (
            torch.tensor(classifier.std, dtype=torch.float64)[:, None, None]
        )
        assert (inputs - expected).abs().max() < (1e-15 if precision == "float64" else 1e-5)
        photographs = photographed(classifier, pixels, ["a", "b"])
        finish(perturb(classifier, photographs, [0, 1], "rollout"))
        found[precision] = one
    plain, double = found["float32"], found["float64"]
    assert plain.run.name == "small.rollout" and "precision" not in plain.stage.manifest["config"]
    assert double.run.name == "small.rollout.float64" and double.stage.manifest["config"]["precision"] == "float64"
    assert (plain.settings, double.settings) == ("first block 1", "first block 1, float64")


def test_memory_is_that_of_one_part(tmp_path: Path, small_parts: None) -> None:
    dataset = wordnet(("cat",), [(1,)] * 8)
    living: list[weakref.ref] = []

    class Images:
        pass

    def prepare(samples) -> Evaluate:
        assert len(samples) <= 2 and not any(reference() for reference in living)
        images = Images()
        living.append(weakref.ref(images))

        def evaluate(_evaluation: Evaluation) -> Generator[None, None, dict[str, np.ndarray]]:
            for _ in samples:
                yield
            assert images is not None
            return {"predicted": np.zeros(len(samples), int)}

        return evaluate

    run_evaluations(evaluations_in(tmp_path, dataset), dataset, prepare, "count")
    assert len(living) == 4


def test_other_images_settings_and_models_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = wordnet(("cat", "dog"), [(1,), (2,)])
    (first,) = evaluations_in(tmp_path, dataset, ("rollout",))
    evaluations.write_part(first.stage.folder / "part-00000.npz", dataset.samples, {"predicted": np.zeros(2, int)})
    evaluations_in(tmp_path, dataset, ("rollout",))
    tested = judged(small_classifier())

    def again(*, whom: ModelUnderTest = tested, what: Dataset = dataset, **settings: object) -> None:
        config = EvaluationConfig(**{"methods": ("rollout",), **settings})
        open_evaluations(whom, what, "perturbation", find_explainers(whom.model, config), config, tmp_path)

    again(rules="exact", batch_size=3)  # neither makes a difference to rollout
    with pytest.raises(InputError, match=r"first_block was 1, is 0 now; .*\(into another run: `name` or `runs`\)$"):
        again(first_block=0)
    with pytest.raises(InputError, match=r"limit was None, is 1 now; .*: `runs`, as these are 2 methods\)$"):
        again(methods=METHODS, limit=1)
    with pytest.raises(InputError, match="limit was None, is 1 now"):
        again(limit=1)
    again(what=wordnet(("cat", "dog"), [(1,), (1,)]))  # whose part will be made again
    with pytest.raises(InputError, match=r"inputs\.model was 'abc', is 'xyz' now"):
        again(whom=replace(tested, fingerprint="xyz"))
    again()
    monkeypatch.setattr(evaluations, "PROTOCOL", evaluations.PROTOCOL + 1)
    with pytest.raises(InputError, match=r"config\.protocol was 1, is 2 now"):
        again()


def test_changed_files_are_tested_again_and_other_folders_refused(tmp_path: Path) -> None:
    """The names are the same throughout; of masks the perturbation test knows nothing."""
    for folder in ("here", "there"):
        for kind in ("images", "masks"):
            (tmp_path / folder / kind).mkdir(parents=True)
            for image in blobs(2, seed=len(folder)):
                image.convert("L").save(tmp_path / folder / kind / f"{len(os.listdir(tmp_path / folder / kind))}.png")
    tested = judged(small_classifier())

    def prepare(samples: Sequence[Sample]) -> Evaluate:
        def evaluate(_evaluation: Evaluation) -> Generator[None, None, dict[str, np.ndarray]]:
            yield from (None for _ in samples)
            return {"predicted": np.zeros(len(samples), int)}

        return evaluate

    def made_in(folder: str) -> dict[str, int]:
        """Images that each of the tests makes now."""
        dataset = replace(paired_folders(tmp_path / folder / "images", tmp_path / folder / "masks"), name="own")
        found = {}
        for test in ("perturbation", "segmentation"):
            (one,) = open_evaluations(
                tested, dataset, test, [explainer("rollout")], EvaluationConfig(), tmp_path / "runs"
            )
            found[test] = run_evaluations([one], dataset, prepare, test)["rollout"].images
        return found

    assert made_in("here") == {"perturbation": 2, "segmentation": 2}
    assert made_in("here") == {"perturbation": 0, "segmentation": 0}
    with pytest.raises(InputError, match=r"holds parts of the data in .*here.* 1 part of the same name in .*there"):
        made_in("there")
    mask = tmp_path / "here/masks/1.png"
    mask.write_bytes(mask.read_bytes() + b"changed")
    assert made_in("here") == {"perturbation": 0, "segmentation": 2}
    os.utime(tmp_path / "here/images/0.png", ns=(1, 1))
    assert made_in("here") == {"perturbation": 0, "segmentation": 0}
    image = tmp_path / "here/images/1.png"
    image.write_bytes(image.read_bytes() + b"changed")
    assert made_in("here") == {"perturbation": 2, "segmentation": 2}


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """data/data.yaml, and runs/trained with a classifier."""
    make_data(tmp_path / "data")
    save_classifier(small_classifier(), tmp_path / "runs/trained/classifier/classifier.safetensors")
    return tmp_path


@pytest.fixture
def command(place: Path) -> Callable[..., int]:
    def call(*options: object, data: object = place / "data/data.yaml") -> int:
        given = ["perturbation-test", "--runs", place / "runs", "--device", "cpu", *options]
        if "--split" not in options:
            given += ["--split", "val"]
        if "--classifier" not in options and "--architecture" not in options:
            given += ["--classifier", "trained"]
        return run(app, [str(word) for word in (*given, "--data", data)])

    return call


def test_command(place: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--methods", *METHODS) == 0
    said = capsys.readouterr().out
    assert "1 of 4 images does not show exactly one class and is left out" in said
    assert "protocol: 3 images; images squeezed to 160 x 160" in said and "minus rollout" in said
    for method in METHODS:
        folder = place / f"runs/trained.{method}"
        (entry,) = read_tests(folder)
        results = read_results(folder / entry.folder)
        figures = perturbation_figures(results)
        expected = {
            "test": "perturbation",
            "data": "tiny",
            "split": "val",
            "images": 3,
            "model": "trained",
            "method": method,
            "figures": figures.values,
            "folder": "perturbation/tiny_val",
            "settings": "first block 1" if method == "rollout" else "rules robust, first block 1",
        }
        assert {key: getattr(entry, key) for key in expected} == expected
        assert entry.curves == figures.curves and len(entry.curves["positive_target"]) == 10
        assert results["ids"].tolist() == ["a", "b", "d"] and results["target"].tolist() == [2, 0, 2]
        assert results["correct"].shape == (3, 2, 2, 10)
        manifest = read_json(folder / entry.folder / "manifest.json")
        assert manifest["kind"] == "perturbation_test" and manifest["history"][-1]["counts"] == {"images": 3}
        with Image.open(folder / entry.folder / "curves.png") as picture:
            picture.load()
    with Image.open(place / "runs/trained.perturbation.tiny_val.png") as picture:
        picture.load()

    made = {path: path.stat().st_mtime_ns for path in place.rglob("part-*.npz")}
    assert command("--methods", *METHODS) == 0  # nothing to do but the figures
    assert "6 of 6 results (2 methods) are there already" in capsys.readouterr().out
    assert made == {path: path.stat().st_mtime_ns for path in place.rglob("part-*.npz")}
    for method in METHODS:  # killed between the last part and the manifest's line
        path = place / f"runs/trained.{method}/perturbation/tiny_val/manifest.json"
        manifest = read_json(path)
        assert len(manifest["history"]) == 1
        write_json(path, {**manifest, "history": []})
    assert command("--methods", METHODS[0]) == command("--methods", METHODS[0]) == 0
    manifests = [read_json(place / f"runs/trained.{method}/perturbation/tiny_val/manifest.json") for method in METHODS]
    assert [[past["split"] for past in manifest["history"]] for manifest in manifests] == [["val"], []]
    assert command("--methods", "rollout", "--name", "mine", "--limit", 2) == 0
    (entry,) = read_tests(place / "runs/mine")
    assert entry.images == 2 and "2 images of 3, evenly spread" in entry.protocol


def test_table_2_in_one_command(place: Path, tmp_path: Path) -> None:
    """The configuration itself, on a stand-in: another model, other data, little of them."""
    import timm

    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "w.safetensors")
    for name in ("n02123045", "n01440764"):
        folder = tmp_path / "imagenet/val" / name
        folder.mkdir(parents=True)
        blobs(1)[0].save(folder / f"ILSVRC2012_{name}.JPEG")
    words = ["perturbation-test", "--config", "vitseg/table2", "--root", tmp_path / "imagenet", "--device", "cpu"]
    words += ["--architecture", "test_vit", "--weights", tmp_path / "w.safetensors", "--runs", tmp_path / "runs"]
    assert run(app, [str(word) for word in words]) == 0
    found: list[TestEntry] = [entry for folder in (tmp_path / "runs").glob("test_vit.*") for entry in _tests(folder)]
    methods = {"rollout", "raw_attention", "gradcam", "lrp", "partial_lrp", "transformer_attribution"}
    assert {entry.method for entry in found} == methods
    assert {entry.settings for entry in found if "lrp" in entry.method} <= {"rules exact"}
    assert "vit_base_patch16_224.orig_in21k_ft_in1k" in timm.list_pretrained()


def _tests(folder: Path) -> list[TestEntry]:
    return read_tests(folder) if folder.is_dir() else []


def test_mistakes_take_one_line(place: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*options: object, **others: object) -> str:
        capsys.readouterr()
        assert command(*options, **others) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")

    assert "method 'rolout' is unknown: did you mean 'rollout'?" in refused("--methods", "rolout")
    assert "--name x: a run holds one method, these are 2" in refused("--methods", *METHODS, "--name", "x")
    assert "--limit" in refused("--limit", 0) and "--batch-size" in refused("--batch-size", 0)
    assert "fuzzy" in refused("--rules", "fuzzy")
    assert "--split test" in refused("--split", "test")
    assert "--name a/b: expected the name" in refused("--methods", "rollout", "--name", "a/b")
    assert "--name ..: expected the name" in refused("--methods", "rollout", "--name", "..")
    assert "--methods: names none" in refused("--methods")
    line = refused("--methods", "rollout,gradcam")
    assert "--methods rollout,gradcam: expected names separated by spaces, got commas: rollout gradcam" in line
    assert "--first-block 99: expected a block of the model" in refused("--methods", "rollout", "--first-block", 99)
    assert not (place / "runs/trained.rollout").exists()  # refused before a stage was opened
    assert "expected one of the two" in refused("--classifier", "trained", "--architecture", "test_vit")
    assert "--classifier nobody: no such file" in refused("--classifier", "nobody")
    assert "--weights nothing.pth: no such file" in refused("--architecture", "test_vit", "--weights", "nothing.pth")
    other = place / "other.safetensors"
    save_classifier(small_classifier(("cow", "horse")), other)
    assert "class 'cat' of data set tiny is not one of the model's" in refused("--classifier", other)
    two = place / "two/data.yaml"
    make_data(place / "two")
    (place / "two/labels.csv").write_text("image,classes,split\nc.png,cat;dog,val\n")
    for image in "abdxy":
        (place / f"two/images/{image}.png").unlink()
    assert "no image shows exactly one class" in refused(data=two)
    (place / "data/images/a.png").write_bytes(b"no image")
    assert "a.png: cannot be read" in refused("--methods", "rollout")

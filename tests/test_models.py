"""Classifiers in files: what was saved comes back, and any other file is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from affinity.checkpoint import save_affinity_network
from affinity.network import AffinityNetwork
from affinity.settings import NetworkConfig
from vitseg.models import Classifier, create_classifier, load_classifier, load_imagenet_vit, save_classifier
from wsss.errors import InputError

NAMES = ("cat", "dog", "cow; or bull")
HEAD = {"head.weight", "head.bias"}


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return create_classifier("test_vit", NAMES, "none")


def weights_file(path: Path, architecture: str = "test_vit", **options: object) -> dict[str, Tensor]:
    torch.manual_seed(1)
    state = timm.create_model(architecture, **options).state_dict()
    save_file(state, path)
    return state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_round_trip(classifier: Classifier, tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "new" / "c.safetensors"
    save_classifier(classifier, path, dtype)
    again = load_classifier(path)
    assert (again.architecture, again.class_names) == ("test_vit", NAMES)
    assert (again.mean, again.std) == (classifier.mean, classifier.std)
    assert not any(module.training for module in again.model.modules())
    state = again.model.state_dict()
    for name, tensor in classifier.model.state_dict().items():
        assert state[name].dtype == torch.float32 and torch.equal(state[name], tensor.to(dtype).float()), name
    assert {tensor.dtype for tensor in load_file(path).values()} == {dtype}
    images = torch.rand(2, 3, 48, 32)  # any size works
    with torch.no_grad():
        expected, found = (model.eval()(images) for model in (classifier.model, again.model))
    torch.testing.assert_close(found, expected, rtol=0, atol=0 if dtype == torch.float32 else 1e-2)


def test_equal_classifiers_are_equal_files(classifier: Classifier, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(4)]
    for path in paths:
        save_classifier(classifier, path)
    assert len({path.read_bytes() for path in paths}) == 1  # a run of seeds knows its classifier by the file's hash


def test_prepare(classifier: Classifier) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    same = classifier.prepare(image, (20, 30))
    scaled = torch.from_numpy(np.array(image)).permute(2, 0, 1).double() / 255
    mean, std = (torch.tensor(value).double()[:, None, None] for value in (classifier.mean, classifier.std))
    torch.testing.assert_close(same.double(), (scaled - mean) / std, rtol=0, atol=1e-6)
    assert classifier.prepare(image, (16, 48)).shape == (3, 16, 48)


def test_backbone_of_a_file_and_a_new_head(tmp_path: Path) -> None:
    state = weights_file(tmp_path / "w.safetensors")
    torch.save({"model": {name: tensor.half() for name, tensor in state.items()}}, tmp_path / "w.pth")
    for suffix, tolerance in (("safetensors", 0), ("pth", 1e-3)):
        own = create_classifier("test_vit", NAMES, str(tmp_path / f"w.{suffix}")).model.state_dict()
        for name in set(own) - HEAD:
            torch.testing.assert_close(own[name], state[name], rtol=tolerance, atol=tolerance)
        assert own["head.weight"].shape == (3, 64)
    imagenet = load_imagenet_vit("test_vit", str(tmp_path / "w.safetensors"))
    assert torch.equal(imagenet.model.head.weight, state["head.weight"])
    assert len(imagenet.class_names) == 1000 and imagenet.class_names[281] == "281"


def test_both_heads_of_a_distilled_model_are_new(tmp_path: Path) -> None:
    distilled = "deit_tiny_distilled_patch16_224"
    state = weights_file(tmp_path / "w.safetensors", distilled)
    own = create_classifier(distilled, NAMES, str(tmp_path / "w.safetensors")).model.state_dict()
    assert {own[f"{head}.weight"].shape for head in ("head", "head_dist")} == {(3, 192)}
    assert all(torch.equal(own[name], state[name]) for name in own if not name.startswith("head"))


def test_position_embedding_of_another_size_is_resampled(tmp_path: Path) -> None:
    state = weights_file(tmp_path / "w.safetensors", img_size=96)
    own = create_classifier("test_vit", NAMES, str(tmp_path / "w.safetensors")).model.state_dict()
    prefix = own["pos_embed"].shape[1] - 100
    expected = resample_abs_pos_embed(state["pos_embed"], (10, 10), (6, 6), num_prefix_tokens=prefix)
    torch.testing.assert_close(own["pos_embed"], expected)
    assert torch.equal(own["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for architecture, options in (("resnet10t", {}), ("test_vit2", {}), ("test_vit", {"depth": 5})):
        weights_file(path, architecture, **options)
        with pytest.raises(InputError, match=rf"`weights` {path}: not the weights of a test_vit: \d+ of 80"):
            create_classifier("test_vit", NAMES, str(path))
    weights_file(path, num_classes=10)
    with pytest.raises(InputError, match=r"2 of 80 tensors differ, first head\.weight"):
        load_imagenet_vit("test_vit", str(path))
    path.write_bytes(path.read_bytes()[:-100])
    for bad in (path, tmp_path / "junk.pth", tmp_path / "list.pth", tmp_path / "notes.txt"):
        if bad.name == "list.pth":
            torch.save([1, 2], bad)
        elif bad != path:
            bad.write_text("junk")
        with pytest.raises(InputError, match=f"`weights` {bad}: not a readable file of weights"):
            create_classifier("test_vit", NAMES, str(bad))
    with pytest.raises(InputError, match=r"none\.pth: no such file \(or the word 'pretrained'\)"):
        create_classifier("test_vit", NAMES, str(tmp_path / "none.pth"))


def test_architectures_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="'vit_tiny_patch16_22' is unknown to timm: did you mean 'vit_tiny_patch16_2"):
        create_classifier("vit_tiny_patch16_22", NAMES, "none")
    for name in ("resnet10t", "beit_base_patch16_224", "eva02_tiny_patch14_224"):
        with pytest.raises(InputError, match=f"architecture '{name}' is no plain ViT"):
            create_classifier(name, NAMES, "none")


def test_pretrained_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no connection\nmore lines")

    monkeypatch.setattr(timm, "create_model", offline)
    line = r"^`weights` pretrained: test_vit could not be fetched \(no connection\); give a file instead$"
    with pytest.raises(InputError, match=line):
        create_classifier("test_vit", NAMES, "pretrained")


def test_files_that_are_no_classifier(classifier: Classifier, tmp_path: Path) -> None:
    def refused(path: Path, line: str) -> None:
        with pytest.raises(InputError, match=line) as caught:
            load_classifier(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    refused(tmp_path / "none.safetensors", "no such file; `vitseg train-classifier` makes one")
    path = tmp_path / "c.safetensors"
    path.write_text("hello")
    refused(path, "not a readable safetensors file")
    path.write_bytes(b"")
    refused(path, "not a readable safetensors file")
    save_classifier(classifier, path)
    path.write_bytes(path.read_bytes()[:-8])
    refused(path, "not a readable safetensors file")
    weights_file(path)
    refused(path, "expected one of `vitseg train-classifier`, got plain weights")
    small = NetworkConfig(backbone="test_resnet", weights=None, levels=(1, 2), widths=(8, 8), dim=16, groups=4)
    save_affinity_network(path, AffinityNetwork(small))
    refused(path, "got relseg affinity network")
    save_classifier(Classifier(classifier.model, "test_vit2", NAMES, classifier.mean, classifier.std), path)
    refused(path, "does not fit its own description")
    save_file({"x": torch.zeros(1)}, path, metadata={"relseg": json.dumps({"kind": "relseg-classifier"})})
    refused(path, "does not fit its own description")

"""The engine against the peers' code, re-implemented slowly (`peers`), and against maps that their code made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peers
import pytest
import timm
import torch
from peers import noise, tiny_vit
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitseg import explain
from vitseg.methods import class_token_rollout
from vitseg.relevance import rules


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Largest difference, relative to the largest value expected."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    scale = expected.abs().max()
    assert scale > 0 and (found - expected).abs().max() <= tolerance * scale


# The rules


def test_ratio_keeps_the_peers_stabiliser() -> None:
    z = torch.tensor([0.0, 1e-9, -1e-9, -2e-9, 1e-12, 3.0, -3.0], dtype=torch.float64)
    found = rules.ratio(torch.full_like(z, 2.0), z)
    torch.testing.assert_close(found, peers.safe_divide(torch.full_like(z, 2.0), z), rtol=1e-12, atol=0)
    assert found[0] == 0 and found.isfinite().all()


def test_linear_rule() -> None:
    x, weight, relevance = noise(3, 4, 20), noise(5, 20, seed=1), noise(3, 4, 5, seed=2)
    x[0, 0, :3] = 0
    found = rules.linear(x, x @ weight.T, weight, relevance)
    close(found, peers.linear(weight, x, relevance), 1e-12)
    torch.testing.assert_close(found.sum(-1), relevance.sum(-1), rtol=1e-7, atol=0)


def test_linear_unit_is_the_linear_rule_of_one_output() -> None:
    x, weight = noise(4, 7), noise(4, 7, seed=1)
    found = rules.linear_unit(x, weight)
    expected = [peers.linear(w[None], row, torch.ones(1).double()) for row, w in zip(x, weight, strict=True)]
    # the peers add the products of two negatives to those of two positives: all that are positive
    close(found, torch.stack(expected), 1e-12)
    torch.testing.assert_close(found.sum(-1), torch.ones(4).double(), rtol=0, atol=1e-8)


def test_product_rule_halves() -> None:
    a, b, relevance = noise(2, 3, 4, 5), noise(2, 3, 5, 6, seed=1), noise(2, 3, 4, 6, seed=2)
    found = rules.product(a, b, relevance)
    for part, expected in zip(found, peers.by_gradient(torch.matmul, (a, b), relevance), strict=True):
        close(part, expected / 2, 1e-12)
        torch.testing.assert_close(part.sum(), relevance.sum() / 2, rtol=1e-6, atol=0)


def test_skip_rule_conserves_image_by_image() -> None:
    a, b, relevance = noise(3, 4, 5), noise(3, 4, 5, seed=1), noise(3, 4, 5, seed=2)
    found = rules.skip(a, b, a + b, relevance)
    expected = [peers.add(*parts) for parts in zip(a, b, relevance, strict=True)]
    for part, of_images in zip(found, zip(*expected, strict=True), strict=True):
        close(part, torch.stack(of_images), 1e-12)
    torch.testing.assert_close((found[0] + found[1]).sum((1, 2)), relevance.sum((1, 2)), rtol=1e-7, atol=0)


def test_through_is_a_copy() -> None:
    x, relevance = noise(3, 4), noise(3, 4, seed=1)
    x[0, 0] = 0
    close(rules.through(x, relevance), peers.clone(x, (relevance,)), 1e-14)
    torch.testing.assert_close(rules.through(x, relevance)[1:], relevance[1:], rtol=1e-6, atol=0)


def test_nothing_to_divide_gives_no_relevance() -> None:
    zero, some = torch.zeros(2, 3), torch.ones(2, 3)
    assert (rules.linear(zero, zero, torch.ones(3, 3), some) == 0).all()
    assert (rules.linear_unit(some, -some) == 0).all()
    assert all((part == 0).all() for part in rules.product(zero, some.T, torch.ones(2, 2)))
    assert all((part == 0).all() for part in rules.skip(some, -some, zero, some))
    assert all((part == 0).all() for part in rules.skip(zero, zero, zero, some))
    assert (rules.through(zero, some) == 0).all()


@pytest.mark.parametrize("normalise", [False, True])
def test_class_token_rollout_is_a_row_of_the_product(normalise: bool) -> None:
    attentions = [noise(2, 6, 6, seed=seed).abs() for seed in range(4)]
    expected = torch.stack([peers.multiply(of_image, normalise)[0] for of_image in zip(*attentions, strict=True)])
    close(class_token_rollout(attentions, normalise=normalise), expected, 1e-13)
    short = [*attentions[:-1], attentions[-1][:, :1]]  # as the walk gives it
    close(class_token_rollout(short, normalise=normalise), expected, 1e-13)


# The walk

VARIANTS = {
    "plain": {},
    "no_qkv_bias": {"qkv_bias": False},
    "no_bias_at_all": {"qkv_bias": False, "proj_bias": False},
    "qk_norm": {"qk_norm": True},
    "layer_scale": {"init_values": 0.5},
    "registers": {"reg_tokens": 3},
    "registers_without_position": {"reg_tokens": 2, "no_embed_class": True},
    "zeros_from_relu": {"act_layer": nn.ReLU},
    "inner_norms": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "norm_before": {"pre_norm": True},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_walk_equals_the_peers(options: dict[str, object]) -> None:
    model, images = tiny_vit(**options), noise(2, 3, 24, 24)
    targets = [[0, 3], [4, 1]]
    found = explain(model, images, targets).maps
    for maps, image, row in zip(found.flatten(2), images, targets, strict=True):
        for one, target in zip(maps, row, strict=True):
            close(one, peers.transformer_attribution(model, image, target))
    rolled = explain(model, images, targets, "rollout").maps
    for maps, image in zip(rolled.flatten(2), images, strict=True):
        close(maps, peers.rollout(model, image).expand(2, -1), 1e-12)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_first_block(first: int) -> None:
    model, image = tiny_vit(), noise(3, 24, 24)
    found = explain(model, image[None], 2, first_block=first).maps[0]
    close(found.flatten(), peers.transformer_attribution(model, image, 2, first))
    rolled = explain(model, image[None], 2, "rollout", first_block=first).maps[0]
    close(rolled.flatten(), peers.rollout(model, image, first), 1e-12)


def test_other_sizes_and_proportions() -> None:
    model, image = tiny_vit(dynamic_img_size=True), noise(3, 16, 40)
    found = explain(model, image[None], 1).maps
    assert found.shape == (1, 2, 5)
    close(found.flatten(), peers.transformer_attribution(model, image, 1))


def test_hybrid_with_a_convolutional_stem() -> None:
    """The walk ends at the first block, so what makes the tokens does not matter."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_r_s16_p8_224", depth=2, num_classes=5).double().eval()
    image = noise(3, 224, 224)
    found = explain(model, image[None], 1).maps
    assert found.shape == (1, 7, 7)
    close(found.flatten(), peers.transformer_attribution(model, image, 1))


# Maps that the peers' own code made of real images with real weights


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "reference" / "vit_tiny_relevance_12.npz") as arrays:
        return {name: arrays[name] for name in ("ids", "predicted", "transformer_attribution", "rollout")}


@pytest.fixture(scope="module")
def real_model(shared: Path) -> VisionTransformer:
    path = shared / "weights" / "vit_tiny_patch16_224.safetensors"
    return timm.create_model("vit_tiny_patch16_224", checkpoint_path=str(path)).double().eval()


@pytest.fixture(scope="module")
def real_images(shared: Path, reference: dict[str, np.ndarray]) -> Tensor:
    folder = shared / "data" / "voc12-animals" / "VOCdevkit" / "VOC2012" / "JPEGImages"
    resized = [
        Image.open(folder / f"{name}.jpg").convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        for name in reference["ids"]
    ]
    return (
        torch.stack([torch.from_numpy(np.array(image)) for image in resized]).permute(0, 3, 1, 2).double() / 127.5 - 1
    )


def test_reference_transformer_attribution(
    reference: dict[str, np.ndarray], real_model: VisionTransformer, real_images: Tensor
) -> None:
    found = [explain(real_model, chunk) for chunk in real_images.split(4)]
    assert torch.cat([one.targets for one in found]).tolist() == reference["predicted"].tolist()
    maps = torch.cat([one.maps for one in found]).numpy()
    scale = maps.max((1, 2), keepdims=True)
    assert (np.abs(maps - reference["transformer_attribution"]) <= 1e-6 * scale).all()


def test_reference_rollout(
    reference: dict[str, np.ndarray],
    real_model: VisionTransformer,
    real_images: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stored rollout was made with LayerNorm's default eps of 1e-5, the model's own is 1e-6: with that of the
    peers it agrees to single precision, with its own to 1e-6 nevertheless.
    """

    def rollout() -> np.ndarray:
        return np.concatenate([explain(real_model, chunk, method="rollout").maps for chunk in real_images.split(4)])

    own = rollout()
    assert np.abs(own - reference["rollout"]).max() <= 1e-6
    norms = [module for module in real_model.modules() if isinstance(module, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}
    for norm in norms:
        monkeypatch.setattr(norm, "eps", 1e-5)
    theirs = rollout()
    assert np.abs(theirs - reference["rollout"]).max() <= 1e-7 * theirs.max()

"""The engine against the published code, re-implemented slowly (`peers`), and against maps that their code made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import peers
import pytest
import timm
import torch
from peers import noise, oracle, tiny_vit
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitseg import explain
from vitseg.methods import METHODS
from vitseg.methods.rollouts import readout_rollout
from vitseg.relevance import capture, rules


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


RULES = {
    "exact": (rules.EXACT, peers.Ours),
    "plain": (rules.PLAIN, peers.Baseline),
    "robust": (rules.ROBUST, peers.Shares),
}
every_rule = pytest.mark.parametrize(("ours", "slow"), RULES.values(), ids=RULES)


@every_rule
def test_linear_rule(ours: rules.Exact, slow: type[peers.Ours]) -> None:
    x, weight, relevance = noise(3, 4, 20), noise(5, 20, seed=1), noise(3, 4, 5, seed=2)
    x[0, 0, :3] = 0
    found = ours.linear(x, x @ weight.T, weight, relevance)
    close(found, slow.linear(weight, x, relevance), 1e-12)
    if slow is not peers.Baseline:  # whose outputs with products of both kinds hand on twice what they have
        torch.testing.assert_close(found.sum(-1), relevance.sum(-1), rtol=1e-7, atol=0)


@every_rule
def test_linear_unit_is_the_linear_rule_of_one_output(ours: rules.Exact, slow: type[peers.Ours]) -> None:
    x, weight = noise(4, 7), noise(4, 7, seed=1)
    found = ours.linear_unit(x, weight)
    expected = [slow.linear(w[None], row, torch.ones(1).double()) for row, w in zip(x, weight, strict=True)]
    close(found, torch.stack(expected), 1e-12)


@every_rule
def test_product_rule_halves(ours: rules.Exact, slow: type[peers.Ours]) -> None:
    a, b, relevance = noise(2, 3, 4, 5), noise(2, 3, 5, 6, seed=1), noise(2, 3, 4, 6, seed=2)
    found = ours.product(a, b, relevance)
    for part, expected in zip(found, slow.product(a, b, relevance), strict=True):
        close(part, expected, 1e-12)
        torch.testing.assert_close(part.sum(), relevance.sum() / 2, rtol=1e-6, atol=0)


@every_rule
def test_skip_rule_conserves_image_by_image(ours: rules.Exact, slow: type[peers.Ours]) -> None:
    a, b, relevance = noise(3, 4, 5), noise(3, 4, 5, seed=1), noise(3, 4, 5, seed=2)
    found = ours.skip(a, b, a + b, relevance)
    expected = [slow.add(*parts) for parts in zip(a, b, relevance, strict=True)]
    for part, of_images in zip(found, zip(*expected, strict=True), strict=True):
        close(part, torch.stack(of_images), 1e-12)
    torch.testing.assert_close((found[0] + found[1]).sum((1, 2)), relevance.sum((1, 2)), rtol=1e-6, atol=0)


@every_rule
def test_mean_rule(ours: rules.Exact, slow: type[peers.Ours]) -> None:
    x, relevance = noise(2, 6, 3), noise(2, 3, seed=1)
    found = ours.mean(x, relevance)
    torch.testing.assert_close(found.sum(1), relevance, rtol=1e-7, atol=0)
    assert ((found != 0) == (x.sign() == x.mean(1, keepdim=True).sign())).all()


def test_through_is_a_copy() -> None:
    x, relevance = noise(3, 4), noise(3, 4, seed=1)
    x[0, 0] = 0
    close(rules.EXACT.through(x, relevance), peers.Ours.clone(x, (relevance,)), 1e-14)
    torch.testing.assert_close(rules.EXACT.through(x, relevance)[1:], relevance[1:], rtol=1e-6, atol=0)
    assert torch.equal(rules.ROBUST.through(x, relevance), relevance)


@every_rule
def test_nothing_to_divide_gives_no_relevance(ours: rules.Exact, slow: type[peers.Ours]) -> None:
    zero, some = torch.zeros(2, 3), torch.ones(2, 3)
    assert (ours.linear(zero, zero, torch.ones(3, 3), some) == 0).all()
    assert (ours.linear_unit(some, -some) == 0).all()
    assert all((part == 0).all() for part in ours.product(zero, some.T, torch.ones(2, 2)))
    assert all((part == 0).all() for part in ours.skip(zero, zero, zero, some))
    if slow is not peers.Shares:  # a and b that cancel have a share each, though their sum is zero
        assert all((part == 0).all() for part in ours.skip(some, -some, zero, some))
        assert (ours.through(zero, some) == 0).all()


def test_robust_rules_keep_relevance_positive_and_do_not_divide_by_what_cancels() -> None:
    """Products that cancel to 1e-12 of their size: the shares are those of their absolute values."""
    a = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    b = torch.tensor([[1.0], [1.0 - 1e-12]], dtype=torch.float64)
    to_a, to_b = rules.ROBUST.product(a, b, torch.ones(1, 1).double())
    torch.testing.assert_close(to_a, torch.full((1, 2), 0.25).double())
    torch.testing.assert_close(to_b, torch.full((2, 1), 0.25).double())
    exact, _ = rules.EXACT.product(a, b, torch.ones(1, 1).double())
    assert exact.abs().max() > 1e2


@pytest.mark.parametrize("normalise", [False, True])
def test_readout_rollout_is_a_row_of_the_product(normalise: bool) -> None:
    one = torch.tensor([1, 0, 0, 0, 0, 0], dtype=torch.float64)
    attentions = [noise(2, 6, 6, seed=seed).abs() for seed in range(4)]
    expected = torch.stack([peers.multiply(of_image, normalise)[0] for of_image in zip(*attentions, strict=True)])
    close(readout_rollout(attentions, one, slice(0, 1), normalise=normalise), expected, 1e-13)
    short = [*attentions[:-1], attentions[-1][:, :1]]  # as the walk gives it
    close(readout_rollout(short, one, slice(0, 1), normalise=normalise), expected, 1e-13)
    mean = torch.tensor([0, 0.2, 0.2, 0.2, 0.2, 0.2], dtype=torch.float64)
    expected = [mean @ peers.multiply(of_image, normalise) for of_image in zip(*attentions, strict=True)]
    close(readout_rollout(attentions, mean, slice(1, None), normalise=normalise), torch.stack(expected), 1e-13)


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
    "mean_of_tokens": {"global_pool": "avg"},
    "mean_without_class_token": {"global_pool": "avg", "class_token": False, "fc_norm": False},
    "mean_of_normed_tokens": {"global_pool": "avg", "fc_norm": False, "reg_tokens": 2},
    "distilled": {"distilled": True},
    "patch_12": {"patch_size": 12},
}


@pytest.mark.parametrize("rules", ["exact", "robust"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_every_method_equals_its_oracle(options: dict[str, object], method: str, rules: str) -> None:
    model, images = tiny_vit(**options), noise(2, 3, 24, 24)
    targets = [[0, 3], [4, 1]]
    found = explain(model, images, targets, method, rules=rules).maps.flatten(2)
    expected = [
        [oracle(method, model, image, c, rules) for c in row] for image, row in zip(images, targets, strict=True)
    ]
    for one, other in zip(found.flatten(0, 1), [slow for row in expected for slow in row], strict=True):
        if method != "gradcam" or other.any():  # whose map is zero where all weights of heads are negative
            close(one, other, 1e-7 if method == "lrp" else 1e-9)
        else:
            assert not one.any()


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.rolls_out])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_first_block(method: str, first: int) -> None:
    model, image = tiny_vit(), noise(3, 24, 24)
    found = explain(model, image[None], 2, method, first_block=first, rules="exact").maps[0]
    specific = (2,) if METHODS[method].class_specific else ()
    close(found.flatten(), getattr(peers, method)(model, image, *specific, first))


@pytest.mark.parametrize("method", ["raw_attention", "gradcam", "partial_lrp", "lrp", "ensemble"])
def test_methods_with_a_fixed_first_block_pass_over_another(method: str) -> None:
    model, images = tiny_vit(), noise(2, 3, 24, 24)
    expected = explain(model, images, 2, method).maps
    torch.testing.assert_close(explain(model, images, 2, method, first_block=1).maps, expected)


@pytest.mark.parametrize("pooling", [{}, {"global_pool": "avg", "class_token": False}], ids=["token", "mean"])
def test_robust_lrp_conserves(pooling: dict[str, object]) -> None:
    """What does not stay with the class token or the position embedding arrives at the pixels, nothing is negative."""
    model, images = tiny_vit(**pooling), noise(2, 3, 24, 24)
    with torch.no_grad():
        model.pos_embed.zero_()
    trace = capture.run(model, images)
    found = explain(model, images, [1, 2], "lrp").maps
    assert (found >= 0).all()
    total = found.sum((1, 2))
    if pooling:
        torch.testing.assert_close(total, torch.ones(2).double())
    else:  # the class token keeps its share
        assert trace.prefix == 1 and (total > 0).all() and (total < 1).all()


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_a_constant_image_has_no_pixel_relevance(level: float) -> None:
    """Every pixel lies at both ends of the box: no contribution, in single precision as well."""
    model, images = tiny_vit().float(), torch.full((1, 3, 24, 24), level)
    assert not explain(model, images, 1, "lrp").maps.any()


def real_proportions() -> VisionTransformer:
    """Three blocks as wide as ViT-Ti's, patches of 14 pixels."""
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", depth=3, patch_size=14, img_size=392).eval()


@pytest.mark.parametrize("make", [lambda: tiny_vit(img_size=40), real_proportions], ids=["tiny", "patch_14"])
def test_robust_maps_are_the_same_in_single_and_double_precision(make: Callable[[], VisionTransformer]) -> None:
    model = make()
    images = noise(1, 3, *model.patch_embed.img_size).float()
    for method in ("transformer_attribution", "lrp", "partial_lrp"):
        single = explain(model.float(), images, 1, method).maps.double()
        double = explain(model.double(), images.double(), 1, method).maps
        assert torch.corrcoef(torch.stack([single.flatten(), double.flatten()]))[0, 1] > 0.999999


def test_other_sizes_and_proportions() -> None:
    model, image = tiny_vit(dynamic_img_size=True), noise(3, 16, 40)
    found = explain(model, image[None], 1, rules="exact").maps
    assert found.shape == (1, 2, 5)
    close(found.flatten(), peers.transformer_attribution(model, image, 1))
    pixels = explain(model, image[None], 1, "lrp").maps
    assert pixels.shape == (1, 16, 40)
    close(pixels.flatten(), oracle("lrp", model, image, 1, "robust"), 1e-7)


def test_hybrid_with_a_convolutional_stem() -> None:
    """The walk ends at the first block, so what makes the tokens does not matter."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_r_s16_p8_224", depth=2, num_classes=5).double().eval()
    image = noise(3, 224, 224)
    found = explain(model, image[None], 1, rules="exact").maps
    assert found.shape == (1, 7, 7)
    close(found.flatten(), peers.transformer_attribution(model, image, 1))
    assert explain(model, image[None], 1, "lrp").maps.shape == (1, 7, 7)  # relevance stops at the trunk's tokens


# Maps that the published code made of real images with real weights


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "reference" / "vit_tiny_relevance_12.npz") as arrays:
        return dict(arrays)


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


def real_maps(model: VisionTransformer, images: Tensor, method: str) -> np.ndarray:
    return np.concatenate([explain(model, chunk, method=method, rules="exact").maps for chunk in images.split(4)])


@pytest.mark.parametrize("method", ["transformer_attribution", "raw_attention", "partial_lrp"])
def test_reference_maps(
    method: str, reference: dict[str, np.ndarray], real_model: VisionTransformer, real_images: Tensor
) -> None:
    maps, expected = real_maps(real_model, real_images, method), reference[method]
    assert (np.abs(maps - expected) <= 1e-6 * expected.max((1, 2), keepdims=True)).all()


def test_reference_predictions(
    reference: dict[str, np.ndarray], real_model: VisionTransformer, real_images: Tensor
) -> None:
    assert explain(real_model, real_images, method="raw_attention").targets.tolist() == reference["predicted"].tolist()


def test_reference_lrp(reference: dict[str, np.ndarray], real_model: VisionTransformer, real_images: Tensor) -> None:
    """Stored in half precision, divided by the largest absolute value."""
    maps = real_maps(real_model, real_images, "lrp")
    maps /= np.abs(maps).max((1, 2), keepdims=True)
    assert np.abs(maps - reference["lrp"].astype(float)).max() <= 5e-4


def test_reference_gradcam(
    reference: dict[str, np.ndarray],
    real_model: VisionTransformer,
    real_images: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stored min-max scaled (not a number where the map is zero throughout), made with LayerNorm's eps of 1e-5."""
    for module in real_model.modules():
        if isinstance(module, nn.LayerNorm):
            monkeypatch.setattr(module, "eps", 1e-5)
    for found, expected in zip(real_maps(real_model, real_images, "gradcam"), reference["gradcam"], strict=True):
        if found.any():
            assert np.abs((found - found.min()) / np.ptp(found) - expected).max() <= 1e-4
        else:
            assert np.isnan(expected).all()


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
        return real_maps(real_model, real_images, "rollout")

    own = rollout()
    assert np.abs(own - reference["rollout"]).max() <= 1e-6
    norms = [module for module in real_model.modules() if isinstance(module, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}
    for norm in norms:
        monkeypatch.setattr(norm, "eps", 1e-5)
    theirs = rollout()
    assert np.abs(theirs - reference["rollout"]).max() <= 1e-7 * theirs.max()

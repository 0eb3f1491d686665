"""`explain`: any number of images and classes at once, any float type, and no trace left on the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import timm
import torch
from peers import noise, tiny_vit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitseg import Explanation, explain
from vitseg.methods import METHODS
from wsss.errors import InputError

METHOD_NAMES = sorted(METHODS)
SEED = 9  # of weights and images for which no method's map is zero throughout


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max() > 0


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_batch_and_classes_equal_a_loop(method: str) -> None:
    model, images = tiny_vit(seed=SEED), noise(3, 3, 24, 24)
    targets = torch.tensor([[0, 1, 2], [4, 4, 0], [3, 2, 1]])
    together = explain(model, images, targets, method)
    assert together.maps.shape == (3, 3, *((24, 24) if method == "lrp" else (3, 3))) and together.method == method
    assert torch.equal(together.targets, targets)
    for b in range(3):
        for k in range(3):
            alone = explain(model, images[b : b + 1], int(targets[b, k]), method)
            torch.testing.assert_close(alone.maps[0], together.maps[b, k], rtol=1e-8, atol=1e-12)
            torch.testing.assert_close(alone.logits[0], together.logits[b])
    assert (together.maps >= 0).all()
    by_class = together.maps[:, 0] - together.maps[:, 1]
    assert bool(by_class.any()) == METHODS[method].class_specific


def test_forms_of_targets() -> None:
    model, images = tiny_vit(), noise(2, 3, 24, 24)
    top = explain(model, images)
    with torch.no_grad():
        torch.testing.assert_close(top.logits, model(images))
    assert torch.equal(top.targets, top.logits.argmax(1)) and top.maps.shape == (2, 3, 3)
    named: list[Explanation] = [
        explain(model, images, targets) for targets in (top.targets.int(), top.targets.tolist(), top.targets[:, None])
    ]
    for one in named:
        torch.testing.assert_close(one.maps.reshape(2, 3, 3), top.maps)
    assert named[2].maps.shape == (2, 1, 3, 3) and named[2].targets.shape == (2, 1)
    assert explain(model, images, 3).targets.tolist() == [3, 3]


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_float_types(method: str) -> None:
    """Positive tokens keep the divisions away from zero, so single precision is close to double."""
    model, images = tiny_vit(seed=SEED), noise(2, 3, 24, 24)
    with torch.no_grad():
        for block in model.blocks:
            block.norm1.bias += 3
            block.norm2.bias += 3
    double = explain(model, images, 1, method)
    single = explain(model.float(), images.float(), 1, method)
    assert single.maps.dtype == torch.float32
    close(single.maps.double(), double.maps, 1e-3)
    half = explain(model.bfloat16(), images.bfloat16(), 1, method)
    assert half.maps.isfinite().all() and half.maps.any()
    assert next(model.parameters()).dtype == torch.bfloat16


# No trace


@contextmanager
def untouched(model: VisionTransformer) -> Iterator[None]:
    """Everything about the model is afterwards as it was before, bit for bit."""

    def state() -> dict[str, object]:
        found: dict[str, object] = {"checkpointing": model.grad_checkpointing}
        for name, parameter in model.named_parameters():
            found[name] = (id(parameter), parameter.requires_grad, parameter.is_leaf, id(parameter.grad))
        for name, module in model.named_modules():
            hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
            found[f"module {name}"] = (module.training, getattr(module, "fused_attn", None), *map(len, hooks))
        return found

    before = state()
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    yield
    assert state() == before
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())
    for name, parameter in model.named_parameters():
        assert gradients[name] is None or torch.equal(parameter.grad, gradients[name])


@pytest.fixture
def used_model() -> VisionTransformer:
    """In the midst of somebody's training: mixed modes, one part frozen, gradients from the last step."""
    model = tiny_vit(drop_path_rate=0.5, proj_drop_rate=0.5, attn_drop_rate=0.5, drop_rate=0.5)
    model.train()
    model.blocks[1].eval()
    model.blocks[2].attn.fused_attn = False
    model.patch_embed.requires_grad_(False)
    model(noise(1, 3, 24, 24)).sum().backward()
    model.set_grad_checkpointing(True)
    assert model.blocks[0].attn.fused_attn and model.head.weight.grad is not None
    return model


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_the_model_is_untouched(used_model: VisionTransformer, method: str) -> None:
    images = noise(2, 3, 24, 24).requires_grad_()
    with untouched(used_model):
        found = explain(used_model, images, [[0, 1], [2, 3]], method)
    assert images.grad is None
    assert not any(tensor.requires_grad for tensor in (found.maps, found.logits))
    quiet = tiny_vit()  # the same weights: drop-out, stochastic depth and checkpointing play no part
    torch.testing.assert_close(found.maps, explain(quiet, images, [[0, 1], [2, 3]], method).maps)


def test_the_model_is_untouched_by_a_failure(used_model: VisionTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    with untouched(used_model), pytest.raises(InputError, match=r"images of \(24, 32\).*dynamic_img_size=True"):
        explain(used_model, noise(1, 3, 24, 32))
    with untouched(used_model), pytest.raises(InputError, match="targets: expected classes 0 to 4, got 0 to 5"):
        explain(used_model, noise(2, 3, 24, 24), [0, 5])

    def broken(*_: object, **__: object) -> Tensor:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("torch.nn.functional.gelu", broken)  # midway through the captured pass
        with untouched(used_model), pytest.raises(MemoryError):
            explain(used_model, noise(1, 3, 24, 24))
    with monkeypatch.context() as patch:
        patch.setattr("vitseg.relevance.rules.Robust.product", broken)  # midway through the walk
        with untouched(used_model), pytest.raises(MemoryError):
            explain(used_model, noise(1, 3, 24, 24))


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradient_mode_of_the_caller(method: str, mode: type) -> None:
    model, images = tiny_vit(), noise(2, 3, 24, 24)
    expected = explain(model, images, [[0, 1], [2, 3]], method).maps
    with mode():
        model_inside, images_inside = tiny_vit(), noise(2, 3, 24, 24)
        for one, some in ((model, images), (model_inside, images_inside)):
            found = explain(one, some, torch.tensor([[0, 1], [2, 3]]), method).maps
            torch.testing.assert_close(found, expected)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(explain(model_inside, images_inside, [[0, 1], [2, 3]], method).maps, expected)


# Refusals


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("vit_tiny_patch16_224", {"global_pool": "avgmax"}, "global_pool 'avgmax' is not supported"),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "pool_include_prefix": True}, "takes in the class token"),
        ("test_vit3", {}, "global_pool 'map' is not supported"),
        ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "num_heads": (1, 1, 1, 1)}, "model SwinTransformer: not"),
        ("beit_base_patch16_224", {"embed_dim": 12}, "model Beit: not supported"),
        ("resnet10t", {}, "model ResNet: not supported"),
        (
            "vit_tiny_patch16_224",
            {"num_classes": 0},
            "head holds no Linear classifier; transformer_attribution explains a class",
        ),
    ],
)
def test_unsupported_models_are_named(name: str, options: dict[str, object], line: str) -> None:
    with torch.device("meta"):
        small = {"depth": 1} if "vit" in name or "deit" in name or "beit" in name else {}
        model = timm.create_model(name, **small, **options) if name != "resnet10t" else timm.create_model(name)
    with pytest.raises(InputError, match=line):
        explain(model, torch.zeros(1, 3, 224, 224))


def test_unsupported_parts_are_named() -> None:
    from timm.models.vision_transformer import ParallelScalingBlock

    images = noise(1, 3, 24, 24)
    with pytest.raises(InputError, match=r"blocks\.0 is a ParallelScalingBlock"):
        explain(tiny_vit(block_fn=ParallelScalingBlock), images)
    with pytest.raises(InputError, match=r"blocks\.0\.mlp is a SwiGLU"):
        explain(tiny_vit(mlp_layer=timm.layers.SwiGLU), images)
    odd = tiny_vit()
    odd.blocks[2].attn = nn.Identity()
    with pytest.raises(InputError, match=r"blocks\.2\.attn is a Identity"):
        explain(odd, images)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"method": "rolout"}, "method 'rolout' is unknown: did you mean 'rollout'"),
        ({"first_block": 3}, "`first_block` 3: expected a block of the model, 0 to 2"),
        ({"targets": -1}, "targets: expected classes 0 to 4, got -1 to -1"),
        ({"targets": [1, 2, 3]}, r"targets: expected .* for 2 images, got \(3,\)"),
        ({"targets": [[], []]}, r"targets: expected .* for 2 images, got \(2, 0\)|targets: expected integer"),
        ({"targets": [0.5, 1.5]}, "targets: expected integer class indices, got torch.float32"),
        ({"targets": [[0, 1, 0, 1, 0], [1, 0, 0, 0, 0]]}, r"look like a mask .* such as \[1, 3\] for the first image"),
        ({"targets": torch.eye(5, dtype=torch.long)[:2]}, r"look like a mask of the classes"),
        ({"targets": [[True, False], [False, True]]}, "targets: expected integer class indices, got torch.bool"),
        ({"targets": [[0], [1, 2]]}, r"\(2, K\) with the same K for every image, got \[\[0\], \[1, 2\]\]"),
        ({"targets": ["cat", "dog"]}, "targets: expected class indices"),
        (
            {"images": torch.zeros(3, 24, 24)},
            r"expected \(B, 3, H, W\).*, got \(3, 24, 24\); one image is images\[None\]",
        ),
        ({"images": np.zeros((2, 3, 24, 24))}, "images: expected a torch.Tensor .*, got a ndarray; torch.from_numpy"),
        ({"images": [torch.zeros(3, 24, 24)]}, "images: expected a torch.Tensor .*, got a list"),
        ({"images": torch.zeros(0, 3, 24, 24)}, r"images: expected .* B >= 1, got \(0, 3, 24, 24\)"),
        ({"images": torch.zeros(2, 3, 24, 24)}, "images: expected torch.float64 on cpu, got torch.float32 on cpu"),
        (
            {"images": torch.zeros(2, 3, 24, 24, dtype=torch.uint8)},
            "images: expected torch.float64 .*, got torch.uint8",
        ),
        ({"images": torch.zeros(2, 3, 24, 24, device="meta")}, "images: expected .* on cpu, got torch.float32 on meta"),
        ({"model": 3}, "model: expected a torch.nn.Module, got a int"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], line: str) -> None:
    with pytest.raises(InputError, match=line):
        explain(**{"model": tiny_vit(), "images": noise(2, 3, 24, 24), **arguments})


def test_half_precision_on_a_cpu_is_refused() -> None:
    with pytest.raises(InputError, match=r"images: expected float32.* on a CPU, got float16: model.float\(\)"):
        explain(tiny_vit().half(), noise(1, 3, 24, 24).half())


def test_an_explanation_prints_its_shapes_and_not_its_numbers() -> None:
    found = Explanation(torch.zeros(2, 3, 3), torch.tensor([1, 0]), torch.zeros(2, 5), "rollout")
    assert repr(found) == "Explanation(rollout of classes [1, 0]: maps (2, 3, 3), logits (2, 5))"

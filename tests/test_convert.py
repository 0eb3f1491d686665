"""`to_timm`: the same scores as the models of torchvision and Hugging Face, of which none is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peers import noise, tiny_vit
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.models import VisionTransformer as Torchvision
from torchvision.models.vision_transformer import ConvStemConfig

from vitseg import explain, to_timm
from vitseg.methods import METHODS
from wsss.errors import InputError

IMAGES = noise(2, 3, 24, 24)


def stirred(model: nn.Module) -> nn.Module:
    """No weight at a special value, in float64."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model.double().eval()


def torchvision(**options: Any) -> nn.Module:
    sizes = {"image_size": 24, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 40}
    return stirred(Torchvision(**{**sizes, "num_classes": 5, "dropout": 0.5, **options}))


def hugging_face(name: str, **options: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="transformers (extra `oracles`) is not installed")
    config = getattr(transformers, name.split("For")[0].removesuffix("Model") + "Config")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 24, "patch_size": 8}
    sizes |= {"mlp_ratio": 3} if "Dinov2" in name else {"intermediate_size": 40}
    return stirred(getattr(transformers, name)(config(**{**sizes, "num_labels": 5, **options})))


def scores(model: nn.Module, images: Tensor, **options: Any) -> Tensor:
    with torch.no_grad():
        output = model(images, **options)
    if isinstance(output, Tensor):
        return output
    return output.logits if hasattr(output, "logits") else output.last_hidden_state[:, 0]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "torchvision": torchvision,
    "torchvision_representation": lambda: torchvision(representation_size=7),
    "vit": lambda: hugging_face("ViTForImageClassification"),
    "vit_no_bias": lambda: hugging_face("ViTForImageClassification", qkv_bias=False, layer_norm_eps=1e-2),
    "vit_tanh_gelu": lambda: hugging_face("ViTForImageClassification", hidden_act="gelu_pytorch_tanh"),
    "vit_relu": lambda: hugging_face("ViTForImageClassification", hidden_act="relu"),
    "vit_features": lambda: hugging_face("ViTModel"),
    "deit": lambda: hugging_face("DeiTForImageClassification"),
    "deit_distilled": lambda: hugging_face("DeiTForImageClassificationWithTeacher"),
    "deit_features": lambda: hugging_face("DeiTModel"),
    "dinov2_features": lambda: hugging_face("Dinov2Model", layerscale_value=0.5),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


@every_model
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_scores_are_equal(make: Callable[[], nn.Module], dtype: torch.dtype, tolerance: float) -> None:
    model = make().to(dtype).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    converted = to_timm(model)
    assert type(converted) in (VisionTransformer, VisionTransformerDistilled)
    assert model.training and converted.training and next(converted.parameters()).dtype == dtype
    expected = scores(model.eval(), IMAGES.to(dtype))
    found = scores(converted.eval(), IMAGES.to(dtype))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@every_model
def test_every_method_explains_what_was_converted(make: Callable[[], nn.Module]) -> None:
    converted = to_timm(make())
    for name, method in METHODS.items():
        if isinstance(converted.head, nn.Identity) and method.class_specific:
            with pytest.raises(InputError, match="head holds no Linear classifier"):
                explain(converted, IMAGES, method=name)
        else:
            assert explain(converted, IMAGES, method=name).maps.isfinite().all()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("ViTForImageClassification", 40),
        ("DeiTForImageClassification", (16, 32)),
        ("DeiTForImageClassificationWithTeacher", (24, 16)),
        ("Dinov2Model", (32, 24)),
    ],
)
def test_other_sizes_are_interpolated_as_hugging_face_does(name: str, size: int | tuple[int, int]) -> None:
    model = hugging_face(name)
    converted = to_timm(model, size)
    images = noise(2, 3, *((size, size) if isinstance(size, int) else size))
    options = {} if name == "Dinov2Model" else {"interpolate_pos_encoding": True}
    torch.testing.assert_close(scores(converted, images), scores(model, images, **options), rtol=1e-12, atol=1e-12)


def test_a_replaced_head_comes_over() -> None:
    model = torchvision()
    model.heads = nn.Sequential(nn.Dropout(0.3), nn.Linear(16, 7), nn.GELU(), nn.Linear(7, 3)).double().eval()
    torch.testing.assert_close(scores(to_timm(model), IMAGES), scores(model, IMAGES), rtol=1e-12, atol=1e-12)
    assert explain(to_timm(model), IMAGES, 2).maps.shape == (2, 3, 3)


def test_wrappers_and_fronts() -> None:
    class Normalise(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images - 0.5) / 0.25

    model = torchvision()
    wrapped = nn.DataParallel(nn.Sequential(Normalise(), model))
    torch.testing.assert_close(scores(to_timm(wrapped), IMAGES), scores(model, (IMAGES - 0.5) / 0.25))
    timms = tiny_vit()
    assert to_timm(timms) is timms


def test_refusals() -> None:
    with pytest.raises(InputError, match="model Linear: not converted; known are torchvision's VisionTransformer"):
        to_timm(nn.Linear(2, 2))
    with pytest.raises(InputError, match="conv_proj: expected one Conv2d, got a Sequential"):
        to_timm(torchvision(conv_stem_configs=[ConvStemConfig(8, 3, 8)]))
    with pytest.raises(InputError, match=r"img_size \(32, 32\): expected 24 x 24, which .* takes alone"):
        to_timm(torchvision(), 32)
    odd = torchvision()
    odd.encoder.ln = nn.Identity()
    with pytest.raises(InputError, match=r"not converted; norm\.weight is missing"):
        to_timm(odd)
    odd = torchvision()
    odd.encoder.layers[1].mlp[1] = nn.ReLU()
    with pytest.raises(InputError, match="gives other scores; were parts of it replaced"):
        to_timm(odd)


def test_refusals_of_hugging_face() -> None:
    with pytest.raises(InputError, match=r"side by side, .*; to_timm\(model.dinov2\) converts it without classifier"):
        to_timm(hugging_face("Dinov2ForImageClassification"))
    with pytest.raises(InputError, match=r"no counterpart of blocks\.0\.mlp\."):
        to_timm(hugging_face("Dinov2Model", use_swiglu_ffn=True))
    with pytest.raises(InputError, match=r"ViTForImageClassification: not supported; .*vitseg.to_timm\(model\)"):
        explain(hugging_face("ViTForImageClassification"), IMAGES)
    with pytest.raises(InputError, match=r"Dinov2Model: not supported; .*vitseg.to_timm\(model\)"):
        explain(hugging_face("Dinov2Model"), IMAGES)

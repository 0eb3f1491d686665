"""Bad input in Python: one line that names the argument and says what was expected; and layers that are not what their
class is published as."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import timm.layers
import torch
from peers import noise, tiny_vit
from PIL import Image
from timm.layers import Attention, Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

import cnnseg
import vitseg
import wsss
from cnnseg.segmentation.api import read_photograph
from wsss.errors import InputError
from wsss.overlay import overlay


class DropPath(nn.Module):
    """Has the name of timm's and changes what passes through, in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class CallsOtherwise(nn.Linear):
    """Calling it is not its forward."""

    def __call__(self, x: Tensor) -> Tensor:
        return 2 * super().__call__(x)


def cnn(*, drop: nn.Module | None = None, linear: type[nn.Linear] = nn.Linear) -> nn.Module:
    torch.manual_seed(0)
    middle = nn.Identity() if drop is None else drop
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(4, 5)
    ).double()


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    return line


FAMILIES = {"vitseg": (vitseg.explain, tiny_vit), "cnnseg": (cnnseg.explain, cnn)}
NAN = noise(3, 3, 24, 24)
NAN[1, 0, 0, 0] = math.nan
IMAGES: dict[str, tuple[Any, str]] = {
    "none": (None, "images: expected a torch.Tensor (B, 3, H, W), got a NoneType"),
    "array": (np.zeros((1, 3, 24, 24)), "images: expected a torch.Tensor (B, 3, H, W), got a ndarray"),
    "list": ([noise(3, 24, 24)], "images: expected a torch.Tensor (B, 3, H, W), got a list"),
    "one image": (noise(3, 24, 24), "one image is images[None]"),
    "no image": (noise(0, 3, 24, 24), "expected (B, 3, H, W), B >= 1"),
    "nan": (NAN, "images: expected finite values, got NaN or infinite ones in 1"),
    "infinite": (noise(2, 3, 24, 24) * math.inf, "got NaN or infinite ones in 0, 1"),
    "sparse": (noise(1, 3, 24, 24).to_sparse(), "images: expected dense ones, got torch.sparse_coo: images.to_dense()"),
    "grey": (noise(1, 1, 24, 24), "to have 3 channels, but got 1 channels instead"),
    "with alpha": (noise(1, 4, 24, 24), "to have 3 channels, but got 4 channels instead"),
    "bytes": (
        torch.zeros(1, 3, 24, 24, dtype=torch.uint8),
        "expected torch.float64 on cpu, got torch.uint8 on cpu",
    ),
    "complex": (noise(1, 3, 24, 24) + 0j, "images: expected torch.float64 on cpu, got torch.complex128 on cpu"),
}
OPTIONS: list[tuple[str, dict[str, Any], str]] = [
    *(
        (family, {"method": wrong}, "method: expected a name, got a ")
        for family in FAMILIES
        for wrong in (None, 3, ["lrp"])
    ),
    ("vitseg", {"rules": 1.5}, "rules: expected a name, got a float; known: exact, robust"),
    ("vitseg", {"first_block": "1"}, "`first_block`: expected a whole number, got '1'"),
    ("vitseg", {"first_block": 0.5}, "`first_block`: expected a whole number, got 0.5"),
    ("vitseg", {"attention_walk": 0.5}, "`attention_walk`: expected a whole number, got 0.5"),
    (
        "vitseg",
        {"attention_walk": 1, "attention_blocks": ["0"]},
        "`attention_blocks`: expected a whole number",
    ),
    ("cnnseg", {"rules": 3}, "rules: expected a name, a Rule, a Composite or a mapping, got a int"),
    ("cnnseg", {"layer": 3}, "layer: expected a name, got a int"),
    *((family, {"targets": "cat"}, "targets: expected class indices") for family in FAMILIES),
    *((family, {"targets": 99}, "targets: expected classes 0 to 4, got 99 to 99") for family in FAMILIES),
    *((family, {"targets": 0.5}, "targets: expected integer class indices, got torch.float") for family in FAMILIES),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", IMAGES)
def test_images(family: str, case: str) -> None:
    explain, model = FAMILIES[family]
    images, told = IMAGES[case]
    assert told in refusal(lambda: explain(model(), images))


@pytest.mark.parametrize(("family", "options", "told"), OPTIONS)
def test_options(family: str, options: dict[str, Any], told: str) -> None:
    explain, model = FAMILIES[family]
    assert told in refusal(lambda: explain(model(), noise(1, 3, 24, 24), **options))


PICTURE, MAP = np.zeros((8, 12, 3), np.uint8), np.eye(2)
PICTURES: dict[str, tuple[Callable[[], object], str]] = {
    "no image": (lambda: overlay(None, MAP), "image: expected (H, W, 3) or (3, H, W), got ()"),
    "grey": (lambda: overlay(PICTURE[..., 0], MAP), "image: expected (H, W, 3) or (3, H, W), got (8, 12)"),
    "normalised": (lambda: overlay(PICTURE - 1.5, MAP), "image: expected uint8, or floats in [0, 1]"),
    "deep": (lambda: overlay(Image.new("I;16", (8, 8)), MAP), "image: expected 8 bits a channel"),
    "text": (lambda: overlay(PICTURE, "heat"), "map: expected one map (h, w), got a str that is no array of numbers"),
    "no map": (lambda: overlay(PICTURE, None), "map: expected one map (h, w), got ()"),
    "maps": (lambda: overlay(PICTURE, torch.zeros(2, 4, 4)), "map: expected one map (h, w), got (2, 4, 4)"),
    "nan map": (lambda: overlay(PICTURE, MAP * math.nan), "map: expected finite values"),
    "opacity": (lambda: overlay(PICTURE, MAP, opacity=1.5), "opacity 1.5: expected a number from 0 to 1"),
    "opacity of a signed map": (lambda: overlay(PICTURE, MAP - 0.5, opacity=-1), "opacity -1: expected a number"),
    "opacity as text": (lambda: overlay(PICTURE, MAP, opacity="half"), "opacity 'half': expected a number"),
    "one limit": (lambda: overlay(PICTURE, MAP, limits=(1,)), "limits (1,): expected two finite values"),
    "a limit alone": (lambda: overlay(PICTURE, MAP, limits=1), "limits 1: expected two finite values"),
    "turned limits": (lambda: overlay(PICTURE, MAP, limits=(1, 0)), "limits (1, 0): expected two finite values, the"),
    "no limits": (lambda: overlay(PICTURE, MAP, limits=(None, 1)), "limits (None, 1): expected two finite values"),
    "photograph": (
        lambda: read_photograph(3),
        "images: expected a file, a PIL image, or uint8 RGB (H, W, 3)",
    ),
    "deep photograph": (
        lambda: read_photograph(Image.new("I;16", (8, 8))),
        "image: expected 8 bits a channel",
    ),
    "float photograph": (
        lambda: read_photograph(np.zeros((8, 8, 3))),
        "image: expected uint8 RGB (H, W, 3), got float64 (8, 8, 3)",
    ),
}


@pytest.mark.parametrize("case", PICTURES)
def test_pictures(case: str) -> None:
    call, told = PICTURES[case]
    assert told in refusal(call)


def test_a_sparse_map_is_drawn() -> None:
    assert np.array_equal(overlay(PICTURE, torch.eye(2).to_sparse()), overlay(PICTURE, torch.eye(2)))


@pytest.mark.parametrize(
    ("mean", "std"),
    [(0.5, (0.5,) * 3), ((0.5,) * 3, 0.5), (None, None), ((), ()), (("a",) * 3, (1,) * 3), ([math.nan], [1])],
)
def test_means_that_are_none(mean: Any, std: Any) -> None:
    images = noise(2, 3, 24, 24)
    line = refusal(lambda: wsss.perturbation_test(cnn(), explainer, images, [0, 1], mean=mean, std=std))
    assert line == f"mean {mean}, std {std}: expected a number for each channel, std above 0"


def test_images_of_the_tests() -> None:
    for images, told in ((NAN, "got NaN or infinite ones in 1"), (NAN.to_sparse(), "expected dense ones")):
        assert told in refusal(lambda: wsss.segmentation_test(cnn(), explainer, images, np.ones((3, 24, 24))))  # noqa: B023
    empty = np.zeros((2, 24, 24), np.uint8)
    line = refusal(lambda: wsss.segmentation_test(cnn(), explainer, noise(2, 3, 24, 24), empty))
    assert line == "masks: hold 0 alone: there is no object in them"


def explainer(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return images.sum(1)


# --- layers that are not what they are called ------------------------------------------------------------------------


@pytest.fixture
def patched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    kind: type[nn.Module] = request.param
    original = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *args, **kwargs: 2 * original(self, *args, **kwargs))
    yield f"{kind.__name__}.forward"


@pytest.mark.parametrize("patched", [Block, Attention, Mlp, timm.layers.LayerNorm, nn.Linear, nn.GELU], indirect=True)
def test_a_vit_of_patched_classes_is_refused(patched: str) -> None:
    line = refusal(lambda: vitseg.explain(tiny_vit(), noise(1, 3, 24, 24)))
    assert line.startswith(f"model: {patched}, which ") and "put the library's back" in line


@pytest.mark.parametrize("patched", [nn.Conv2d, nn.ReLU, nn.Linear, nn.AdaptiveAvgPool2d], indirect=True)
def test_a_cnn_of_patched_classes_is_refused(patched: str) -> None:
    line = refusal(lambda: cnnseg.explain(cnn(), noise(1, 3, 24, 24)))
    assert line.startswith(f"model: {patched}, which ") and "put the library's back" in line


def test_what_libraries_made_is_not_taken_for_patched() -> None:
    assert vitseg.explain(tiny_vit(), noise(1, 3, 24, 24)).maps.isfinite().all()
    whole = cnn(drop=timm.layers.DropPath(0.5))
    assert cnnseg.explain(whole, noise(1, 3, 24, 24)).maps.isfinite().all()
    traced = torch.fx.symbolic_trace(cnn())  # whose class has a call of its own, the library's
    torch.testing.assert_close(
        cnnseg.explain(traced, noise(1, 3, 24, 24)).maps, cnnseg.explain(cnn(), noise(1, 3, 24, 24)).maps
    )


def test_an_own_drop_path_is_what_its_code_says() -> None:
    """LRP-0 is input times gradient, whatever stands in between; a layer of that name was taken for an identity."""
    images, model = noise(1, 3, 24, 24), cnn(drop=DropPath())
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[0, 2], x)
    found = cnnseg.explain(model, images, 2, rules="zero").maps[0]
    torch.testing.assert_close(found, (images * gradient).sum(1)[0])


def test_a_layer_with_a_call_of_its_own_is_refused() -> None:
    line = refusal(lambda: cnnseg.explain(cnn(linear=CallsOtherwise), noise(1, 3, 24, 24)))
    assert line == (
        "model: 5 is a CallsOtherwise with a __call__ of its own, which no rule knows of; write what it does into its "
        "forward"
    )
    model = tiny_vit()
    fc1 = model.blocks[0].mlp.fc1
    model.blocks[0].mlp.fc1 = CallsOtherwise(fc1.in_features, fc1.out_features).to(fc1.weight)
    assert "blocks.0.mlp.fc1 is a CallsOtherwise" in refusal(lambda: vitseg.explain(model, noise(1, 3, 24, 24)))

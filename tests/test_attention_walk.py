"""Maps walked over the ViT's own attention: a slow oracle in float64, and the options around it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from vitseg import explain
from vitseg.models import Classifier
from vitseg.relevance.attention_walk import walked_blocks
from vitseg.seeds import class_maps
from vitseg.settings import SeedConfig
from wsss.errors import InputError
from wsss.maps import compete, scale_maps
from wsss.store import Stage, config_of

USUAL = {"test_vit": (4,), "test_vit2": (5,)}
"""A model whose head reads the class token (6 blocks), one whose head reads the mean of all patches (8 blocks)."""


@pytest.fixture(scope="module", params=sorted(USUAL))
def model(request: pytest.FixtureRequest) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = timm.create_model(request.param, num_classes=3, dynamic_img_size=True).double().eval()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    made.usual = USUAL[request.param]
    return made


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def attentions(model: nn.Module, image: Tensor) -> list[np.ndarray]:
    """Of each block (heads, tokens, tokens), of one image (3, H, W), by hooks of our own."""
    model, found = copy.deepcopy(model), []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _module, _args, output: found.append(output[0].numpy()))
    with torch.no_grad():
        model(image[None])
    return found


def slowly_walked(
    model: nn.Module, image: Tensor, found: np.ndarray, steps: int, blocks: tuple[int, ...]
) -> np.ndarray:
    """One map (h, w) of one image, entry by entry where it says what the method is."""
    matrices = [head for block in blocks for head in attentions(model, image)[block]]
    prefix, patches = model.num_prefix_tokens, found.size
    affinity = np.zeros((patches, patches))
    for matrix in matrices:
        affinity += matrix[prefix:, prefix:] / len(matrices)
    for _ in range(3):
        for column in range(patches):
            affinity[:, column] /= affinity[:, column].sum()
        for row in range(patches):
            affinity[row] /= affinity[row].sum()
    mutual = (affinity + affinity.T) / 2
    values = found.flatten()
    for _ in range(steps):
        values = np.array([(mutual[i] * values).sum() / mutual[i].sum() for i in range(patches)])
    return values.reshape(found.shape)


@pytest.mark.parametrize("method", ["transformer_attribution", "rollout", "generic_attention", "gradcam"])
@pytest.mark.parametrize("blocks", [(4,), (0, 3), None])
def test_against_the_slow_way(model: nn.Module, images: Tensor, method: str, blocks: tuple[int, ...] | None) -> None:
    targets = [[0, 2], [2, 1]]
    plain = explain(model, images, targets, method, first_block=2).maps
    for steps in (1, 3):
        walked = explain(
            model, images, targets, method, first_block=2, attention_walk=steps, attention_blocks=blocks
        ).maps
        for image, before, after in zip(images, plain, walked, strict=True):
            for one, found in zip(before.numpy(), after.numpy(), strict=True):
                expected = slowly_walked(model, image, one, steps, blocks or model.usual)
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())
        if model.global_pool == "token":  # else every map of so small a model is nearly flat
            assert not torch.allclose(walked, plain, rtol=0.01)


def test_no_steps_are_the_explanation_itself(model: nn.Module, images: Tensor) -> None:
    plain, walked = (explain(model, images, 1, attention_walk=0, attention_blocks=b).maps for b in (None, (0, 99)))
    assert torch.equal(plain, walked)


def test_a_walk_averages(model: nn.Module, images: Tensor) -> None:
    """The walked values stay between the smallest and the largest, and end as one and the same."""
    plain, walked = (explain(model, images, 1, attention_walk=steps).maps.flatten(1) for steps in (0, 200))
    assert (walked.amin(1) >= plain.amin(1)).all() and (walked.amax(1) <= plain.amax(1)).all()
    assert ((walked.amax(1) - walked.amin(1)) < 1e-3 * (plain.amax(1) - plain.amin(1))).all()


def test_blocks() -> None:
    assert walked_blocks(2, None, 12) == (8, 9)
    assert walked_blocks(2, None, 24) == (16, 17, 18, 19)
    assert [walked_blocks(1, None, depth) for depth in (1, 2, 3, 6)] == [(0,), (1,), (2,), (4,)]
    assert walked_blocks(0, (3,), 12) == ()
    assert walked_blocks(1, (3, 5), 12) == (3, 5)


def test_mistakes_are_named(model: nn.Module, images: Tensor) -> None:
    for options, message in (
        ({"attention_walk": -1}, r"attention_walk -1: expected a number of steps, 0 or more"),
        ({"attention_walk": 1, "attention_blocks": (2, 9)}, r"attention_blocks 2 9: .* blocks, 0 to \d"),
        ({"attention_walk": 1, "attention_blocks": ()}, r"attention_blocks none: .* blocks, 0 to \d"),
        (
            {"attention_walk": 1, "method": "lrp"},
            r"attention_walk 1: the map has a grid of \(48, 80\), expected .*\(3, 5\)",
        ),
    ):
        with pytest.raises(InputError, match=message):
            explain(model, images, 0, **options)


@pytest.mark.parametrize("compete_too", [False, True])
def test_seeds_walk_each_size_by_its_own_attention(model: nn.Module, compete_too: bool) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8))
    classifier = Classifier(model, "test_vit", ("a", "b", "c"), (0.5,) * 3, (0.5,) * 3)
    config = SeedConfig(sizes=(48,), flip=False, first_block=1, precision="float64", attention_walk=2, power=1)
    config = config.model_copy(update={"competition": compete_too})
    (found,) = class_maps(classifier, [image], [[2, 0]], config)
    x = classifier.prepare(image, (48, 48))[None].double()
    maps = explain(model, x, [[2, 0]], first_block=1, rules="exact", attention_walk=2).maps[0]
    np.testing.assert_allclose(found, scale_maps(compete(maps) if compete_too else maps), atol=1e-6)


def test_usual_values() -> None:
    assert (SeedConfig().walk_steps, SeedConfig().exponent) == (2, 2)
    assert (SeedConfig(method="rollout").walk_steps, SeedConfig(method="rollout").exponent) == (0, 0.5)
    assert (SeedConfig(attention_walk=0).walk_steps, SeedConfig(attention_walk=0).exponent) == (0, 0.5)
    assert SeedConfig(method="rollout", attention_walk=1).exponent == 2
    assert SeedConfig(attention_walk=3, power=0.7).exponent == 0.7
    assert SeedConfig().competes and not SeedConfig(attention_walk=0).competes
    assert SeedConfig(attention_walk=0, competition=True).competes and not SeedConfig(competition=False).competes
    assert {"attention_walk", "competition"} <= set(SeedConfig(attention_walk=0, competition=True).identity)


def test_runs_from_before_there_was_a_walk_go_on(tmp_path: Path) -> None:
    before = {
        "method": "transformer_attribution",
        "sizes": [224, 320, 448],
        "flip": True,
        "rules": "exact",
        "first_block": None,
        "power": 0.5,
        "percentile": 100.0,
        "precision": "float32",
    }
    common = {"kind": "seeds", "class_names": ("cat",), "suffix": ".npz"}
    folder = tmp_path / "seeds"
    assert config_of(folder) is None and SeedConfig().as_begun(None).walk_steps == 2
    stage = Stage.open(folder, config=before, **common)
    (stage.folder / "a.npz").write_bytes(b"seed")
    assert SeedConfig().as_begun(config_of(folder)).walk_steps == 0
    Stage.open(folder, config=SeedConfig().as_begun(config_of(folder)).identity, **common)
    asked = SeedConfig(attention_walk=2, power=0.5).as_begun(config_of(folder))
    with pytest.raises(InputError, match=r"config.attention_walk was None, is 2 now"):
        Stage.open(folder, config=asked.identity, **common)
    walked = Stage.open(tmp_path / "walked", config=SeedConfig().identity, **common)
    assert SeedConfig().as_begun(config_of(walked.folder)).walk_steps == 2


def test_exact_relevance_is_in_double_precision(tmp_path: Path) -> None:
    from vitseg.methods import METHODS
    from vitseg.settings import PROPAGATED

    assert set(PROPAGATED) == {name for name, method in METHODS.items() if method.relevance}
    assert SeedConfig().dtype == SeedConfig(attention_walk=0).dtype == "float64"
    assert SeedConfig(rules="robust").dtype == SeedConfig(method="rollout").dtype == "float32"
    before = SeedConfig(precision="float32").identity
    begun = Stage.open(tmp_path / "seeds", kind="seeds", class_names=("cat",), suffix=".npz", config=before)
    assert SeedConfig().as_begun(config_of(begun.folder)).identity == before  # begun before this was usual

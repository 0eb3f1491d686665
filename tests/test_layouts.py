"""Where in the image values of tokens, channels-last and windowed layers lie, against other code and by eye."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.models.beit import Beit
from timm.models.cait import Cait
from timm.models.mlp_mixer import MlpMixer
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from cnnseg import explain, unroll
from cnnseg.methods.running import Traced, layers_with_maps, passes
from cnnseg.unroll.axes import are_maps, are_plain, maps_axes, prefixed, reshaped, to_maps
from cnnseg.unroll.encoding import run_step
from cnnseg.unroll.following import Following
from cnnseg.unroll.layers import Options, Way
from cnnseg.unroll.trace import trace
from wsss.errors import InputError

SIZE, GRID = (3, 64, 64), 4


def swin() -> nn.Module:
    sizes = {"img_size": 64, "patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": (2, 2, 2)}
    return SwinTransformer(**sizes, num_heads=(2, 2, 2), num_classes=3)


def beit() -> nn.Module:
    return Beit(img_size=64, patch_size=16, embed_dim=16, depth=2, num_heads=2, num_classes=3, init_values=0.1)


def mixer() -> nn.Module:
    return MlpMixer(img_size=64, patch_size=16, num_blocks=2, embed_dim=16, num_classes=3)


def cait() -> nn.Module:
    return Cait(img_size=64, patch_size=16, embed_dim=16, depth=2, num_heads=2, num_classes=3)


def ready(make: Callable[[], nn.Module]) -> nn.Module:
    """In double precision, with weights of one size, where some start at 0."""
    torch.manual_seed(0)
    model = make().double().eval()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)
    return model


def images(count: int = 2) -> Tensor:
    return torch.randn(count, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


PEERS: dict[str, tuple[Callable[[], nn.Module], str | None, str, Callable[[Tensor], Tensor]]] = {
    "swin": (swin, None, "norm", lambda t: t.permute(0, 3, 1, 2)),
    "swin, a block": (swin, "layers.1.blocks.1", "layers.1.blocks.1", lambda t: t.permute(0, 3, 1, 2)),
    "swin, merged": (swin, "layers.1.downsample", "layers.1.downsample", lambda t: t.permute(0, 3, 1, 2)),
    "beit": (beit, None, "blocks.1", lambda t: t[:, 1:].mT.unflatten(2, (GRID, GRID))),
    "beit, a block": (beit, "blocks.0", "blocks.0", lambda t: t[:, 1:].mT.unflatten(2, (GRID, GRID))),
    "mixer": (mixer, None, "norm", lambda t: t.mT.unflatten(2, (GRID, GRID))),
    "mixer, a block": (mixer, "blocks.0", "blocks.0", lambda t: t.mT.unflatten(2, (GRID, GRID))),
    "cait, a block": (cait, "blocks.1", "blocks.1", lambda t: t.mT.unflatten(2, (GRID, GRID))),
}
"""Model, the layer named to this toolkit and the one named to the other, and how the other is told to lay it out."""


@pytest.mark.parametrize("name", PEERS)
def test_grad_cam_of_transformers_is_that_of_another_package(name: str) -> None:
    peer = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    make, layer, theirs, laid_out = PEERS[name]
    model, x = ready(make), images()
    assert isinstance(passes(model), Traced)
    found = explain(model, x, [[0, 1, 2]] * 2, "gradcam", layer=layer).maps
    watched, expected = model.get_submodule(theirs), []
    for target in range(3):
        targets = [ClassifierOutputTarget(target)] * len(x)
        with peer.GradCAM(model, [watched], reshape_transform=laid_out) as cam:
            cam(x, targets)
            kept = cam.activations_and_grads
            seen = [values[0].detach().numpy() for values in (kept.activations, kept.gradients)]
            expected.append(torch.from_numpy(cam.get_cam_image(x, watched, targets, *seen, False)).clamp(min=0))
    wanted = torch.stack(expected, 1)
    assert wanted.any() and found.shape == wanted.shape
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-6, atol=1e-6 * wanted.max().item())


# --- axes against sight: values that say where they are from ---


class Chain(nn.Module):
    """Somebody's code on the images."""

    def __init__(self, code: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.code = code

    def forward(self, images: Tensor) -> Tensor:
        return self.code(images)


def windows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(2, 2, 4, 3, 4, 2).transpose(2, 3).reshape(12, 16, 2)


CHAINS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "channels last": (lambda x: x.permute(0, 2, 3, 1), 1),
    "tokens": (lambda x: x.flatten(2).transpose(1, 2), 1),
    "tokens by columns": (lambda x: x.transpose(2, 3).flatten(2), 1),
    "windows and back": (lambda x: windows(x).view(2, 2, 3, 4, 4, 2).permute(0, 1, 3, 2, 4, 5).reshape(2, 8, 12, 2), 1),
    "shuffled channels": (lambda x: x.view(2, 2, 1, 8, 12).transpose(1, 2).reshape(2, 2, 8, 12), 1),
    "patches as channels": (
        lambda x: x.reshape(2, 2, 4, 2, 6, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 8, 4, 6), 2
    ),
    "patches' maxima": (lambda x: x.reshape(2, 2, 4, 2, 6, 2).amax(5).amax(3), 2),
    "every second": (lambda x: x.permute(0, 2, 3, 1)[:, ::2, ::2], 2),
    "behind a class token": (
        lambda x: torch.cat([x.new_zeros(2, 1, 2), x.flatten(2).transpose(1, 2)], dim=1), 1
    ),
    "without it": (
        lambda x: torch.cat([x.new_zeros(2, 1, 2), x.flatten(2).transpose(1, 2)], dim=1)[:, 1:], 1
    ),
    "rolled": (lambda x: x.roll(2, 3), 0),
    "windows": (windows, 0),
    "a quarter": (lambda x: x[:, :, :4, :6], 0),
    "within patches": (lambda x: x.reshape(2, 2, 4, 2, 6, 2).amax(4).amax(2), 0),
    "turned over": (lambda x: x.flip(3), 0),
    "heads": (lambda x: x.flatten(2).mT @ x.flatten(2), 0),
}  # fmt: skip
"""What is done to maps of 8 x 12, and how many pixels a side each place then stands for; 0: it is not known."""

PLAIN = ("shuffled channels", "patches as channels", "patches' maxima")
"""Those that give maps again."""


@pytest.mark.parametrize("name", CHAINS)
def test_axes_are_followed_as_the_values_go(name: str) -> None:
    code, stride = CHAINS[name]
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(12.0), indexing="ij")
    x = torch.stack([rows, columns]).expand(2, -1, -1, -1).contiguous()
    traced = trace(Chain(code))
    following, values = Following(x), {0: x}
    for place, step in enumerate(traced.steps, 1):
        inputs = tuple(values[source] for source in step.inputs)
        values[place] = run_step(step, inputs, Way(Options()), x)[0]
        following.step(place, step, inputs, values[place])
    axes = following.of(place)
    assert are_maps(axes) == bool(stride) and are_plain(axes) == (name in PLAIN)
    if stride:
        found = to_maps(values[place], axes)
        assert found.shape[2:] == (8 // stride, 12 // stride)
        for of, where in ((rows, 0), (columns, -1)):
            wanted = of[::stride, ::stride]
            assert torch.equal((found[0, where] // stride).floor(), (wanted // stride).floor())


def test_windows_of_one_image_are_not_the_whole() -> None:
    axes = maps_axes((1, 5, 8, 8))
    assert reshaped(axes, (1, 5, 2, 4, 8)) is not None and reshaped(axes, (1, 5, 3, 3, 8)) is None
    assert not are_maps(reshaped(axes, (1, 5 * 8, 8)))
    tokens = reshaped(axes, (1, 5, 64))
    assert tokens is not None and are_maps((*tokens[:2], prefixed(tokens[2], 2)))


# --- what is not known is refused ---


class Rolled(nn.Module):
    """Tokens after convolutions, put in another order by code that nothing is known of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act, self.body, self.head = nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.act(self.stem(images)).flatten(2).mT
        return self.head(self.body(tokens.roll(3, 1)).mean(1))


class Unseen(nn.Module):
    """A model of which torch.fx sees nothing."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images) if images.isfinite().all() else images


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_tokens_of_unknown_places_are_refused_by_name(method: str) -> None:
    model, x = ready(Rolled), images()
    with pytest.raises(InputError, match=r"lies over the image is not known; .* the last one with maps is 'act'"):
        explain(model, x, 1, method)
    with pytest.raises(InputError, match=r"layer 'body': expected maps .*, got \(256, 8\), and how .* not known"):
        explain(model, x, 1, method, layer="body")
    assert explain(model, x, 1, method, layer="act").maps.shape == (2, 16, 16)
    hidden = ready(lambda: Unseen(Rolled()))
    with pytest.raises(InputError, match=r"output of its layer 'body\.body' .* last one with maps is 'body\.act'"):
        explain(hidden, x, 1, method)
    assert explain(hidden, x, 1, method, layer="body.act").maps.shape == (2, 16, 16)


def test_channels_last_modules_by_hooks_are_not_taken_for_maps() -> None:
    model = nn.Sequential(nn.Conv2d(3, 40, 4, 4), Last(40), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 3))
    hidden, x = Unseen(model).eval(), images().float()
    with pytest.raises(InputError, match=r"layer 'body\.1\.body': expected maps .*, got \(16, 16, 40\)"):
        explain(hidden, x, 1, "gradcam", layer="body.1.body")
    assert torch.equal(explain(hidden, x, 1, "gradcam").maps, explain(model.eval(), x, 1, "gradcam").maps)


def test_scores_that_hang_on_the_class_token_name_an_earlier_block() -> None:
    with pytest.raises(InputError, match=r"class scores hang on its prefix tokens alone.* name an earlier block"):
        explain(ready(cait), images(), 1, "gradcam")


def test_relevance_is_read_of_maps_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 4, 4), Last(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(InputError, match=r"layer '1\.body': expected maps .*, got \(16, 16, 4\), and how"):
        unroll(model.eval(), ends={"1.body": 1.0})(torch.randn(2, *SIZE))
    assert list(layers_with_maps(ready(swin), 8)) == ["patch_embed.proj"]


class Last(nn.Module):
    """A fully connected layer on channels-last maps, there and back."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.body = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

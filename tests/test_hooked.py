"""Networks that torch.fx cannot follow: hooks give what the trace gives, and what autograd gives by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from small_networks import ready
from torch import Tensor, nn

import cnnseg
from cnnseg import cli, explain
from cnnseg.explanation import check_explanation
from cnnseg.explorer.segmenting import ExplainedSegmenter
from cnnseg.methods.hooked import Hooked
from cnnseg.methods.running import layer_at_stride, layers_with_maps, passes
from cnnseg.models import Network, create_segmentation, load_network, save_network
from cnnseg.regions.explaining import RegionExplainer
from cnnseg.regions.layers import list_layers, usual_layer
from cnnseg.segmentation.settings import SegmentationConfig
from wsss.console import run
from wsss.errors import InputError
from wsss.explorer.explained import Region, Setting

NAMES = ("cat", "dog")
METHODS = ("gradcam", "layercam", "input_x_gradient", "integrated_gradients")
OF_LAYERS = ("gradcam", "layercam")
SHIPPED = Path(__file__).parents[1] / "demo/checkpoints/segmentation.safetensors"


class Hidden(nn.Module):
    """A model that torch.fx cannot follow for an `if` that is always true."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images) if images.isfinite().all() else images


class Tiny(nn.Module):
    """Works in place, calls one ReLU twice, and reads what it changed in place by its old name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.act = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.second, self.third, self.skip = nn.Conv2d(6, 6, 3, 1, 1), nn.Conv2d(6, 8, 3, 2, 1), nn.Dropout(0.5)
        self.gate = nn.ReLU(inplace=True)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.first(images))
        y = self.second(self.gate(x))
        x = self.skip(x) + x + self.act(y) * y  # both x and y are those behind the ReLU
        return self.head(self.pool(self.act(self.third(x))).flatten(1))


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return ready(Tiny())


def unet() -> nn.Module:
    torch.manual_seed(0)
    return ready(smp.Unet("resnet18", encoder_weights=None, classes=3, decoder_channels=(32, 16, 8, 8, 8)))


def dpt_network() -> Network:
    torch.manual_seed(0)
    network = create_segmentation(
        SegmentationConfig(decoder="dpt", encoder="test_vit", weights="none", width=64), NAMES
    )
    ready(network.module)
    nn.init.normal_(network.module.segmentation_head.head[4].weight, std=2.0)
    return network


@pytest.fixture(scope="module")
def dpt() -> Network:
    return dpt_network()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, dpt: Network) -> Path:
    """The same network in net.safetensors, and a photograph a.png of 90 x 70 pixels."""
    folder = tmp_path_factory.mktemp("hooked")
    save_network(dpt, folder / "net.safetensors")
    small = np.random.default_rng(0).integers(0, 256, (14, 18, 3), np.uint8)
    Image.fromarray(small.repeat(5, 0).repeat(5, 1)).save(folder / "a.png")
    return folder


def images(count: int = 2, height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1)).double()


def a_region(count: int = 1, height: int = 64, width: int = 64) -> Tensor:
    region = torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(2)).double()
    return region * (region > 0.7)


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert found.shape == expected.shape and expected.abs().max() > 0
    assert (found - expected).abs().max().item() < tolerance * expected.abs().max().item()


# --- the hooked pass is the traced one ---


CASES = [
    *[("tiny", method, None) for method in METHODS],
    *[("tiny", method, layer) for method in OF_LAYERS for layer in ("norm", "gate", "act", "second", "third", "skip")],
    *[("unet", method, None) for method in METHODS],
    *[
        ("unet", method, layer)
        for method in OF_LAYERS
        for layer in (
            "encoder",
            "encoder.bn1",
            "encoder.relu",
            "encoder.layer2",
            "encoder.layer4.0",
            "decoder.blocks.2",
        )
    ],
]


@pytest.mark.parametrize(("name", "method", "layer"), CASES)
def test_hooks_give_what_the_trace_gives(name: str, method: str, layer: str | None) -> None:
    model, x = {"tiny": tiny, "unet": unet}[name](), images()
    region = a_region(2)
    targets = torch.tensor([[1, 0], [2, 1]])

    def maps(hidden: bool) -> Tensor:
        found, shown = Hidden(model) if hidden else model, layer
        if name == "unet":
            found = cnnseg.adapt(found, region)
        if hidden and (layer or (method in OF_LAYERS and name == "unet")):
            shown = f"body.{layer or 'encoder'}"
        assert isinstance(passes(found), Hooked) == hidden
        result = explain(found, x, targets, method, layer=shown)
        near(result.logits, found(x))
        return result.maps

    near(maps(hidden=True), maps(hidden=False))


def test_the_usual_layer_is_that_of_the_trace() -> None:
    classifier = tiny()
    near(explain(Hidden(classifier), images(), 1, "gradcam").maps, explain(classifier, images(), 1, "gradcam").maps)


def test_layers_are_listed_as_they_are_done() -> None:
    layers = layers_with_maps(Hidden(tiny()), 4)
    assert list(layers.items()) == [
        ("body.first", 2), ("body.norm", 2), ("body.gate", 2), ("body.second", 2), ("body.third", 4), ("body.act", 4)
    ]  # fmt: skip
    assert layer_at_stride(Hidden(tiny()), 2) == "body.second"


# --- a ViT's tokens, against autograd written out ---


def by_hand(module: nn.Module, x: Tensor, region: Tensor, target: int, block: int) -> tuple[Tensor, Tensor]:
    """Tokens behind a block of the encoder (B, N, D), and the gradient of the class's mean map by them."""
    vit, height, width = module.encoder.model, *x.shape[2:]
    padded = F.pad(x, (0, -width % module.multiple, 0, -height % module.multiple), mode="replicate")
    grid = padded.shape[2] // 16, padded.shape[3] // 16
    tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(padded))))
    behind, watched = [], None
    for index, part in enumerate(vit.blocks):
        tokens = part(tokens)
        if index == block:
            tokens = watched = tokens.detach().requires_grad_()
        behind.append(tokens)
    read = [behind[index] for index in module.encoder._output_indices]
    prefix = vit.num_prefix_tokens
    features = [one[:, prefix:].transpose(1, 2).reshape(len(x), -1, *grid) for one in read]
    maps = module.segmentation_head(module.decoder(features, [one[:, :prefix] for one in read]))[..., :height, :width]
    return watched.detach(), torch.autograd.grad(mean_score(maps, region, target), watched)[0]


def mean_score(maps: Tensor, region: Tensor, target: int) -> Tensor:
    """Sum over the images of a class's mean over the region, in single precision, as the networks' maps are."""
    shares = region.float() / region.float().sum((2, 3), keepdim=True)
    return (maps[:, target].float() * shares[:, 0]).sum()


@pytest.mark.parametrize("block", [0, 3, 5])
@pytest.mark.parametrize("size", [(64, 64), (70, 90)])
def test_tokens_are_laid_out_as_maps(dpt: Network, block: int, size: tuple[int, int]) -> None:
    x, region = images(2, *size), a_region(2, *size)
    tokens, gradient = by_hand(dpt.module, x, region, 1, block)
    height, width = (-(-side // dpt.module.multiple) * dpt.module.multiple // 16 for side in size)
    prefix = dpt.module.encoder.model.num_prefix_tokens
    assert prefix > 0
    activation = tokens[:, prefix:].reshape(2, height, width, -1)
    gradient = gradient[:, prefix:].reshape(2, height, width, -1)
    adapted = cnnseg.adapt(dpt, region)
    name = f"encoder.model.blocks.{block}"
    weighed = (activation * gradient.mean((1, 2), keepdim=True)).sum(-1).clamp(min=0)
    near(explain(adapted, x, 1, "gradcam", layer=name).maps, weighed)
    weighed = (activation * gradient.clamp(min=0)).sum(-1).clamp(min=0)
    near(explain(adapted, x, 1, "layercam", layer=name).maps, weighed)


def test_the_usual_layer_is_the_last_block_that_the_decoder_reads(dpt: Network) -> None:
    adapted, x = cnnseg.adapt(dpt, a_region()), images()
    last = dpt.module.encoder._output_indices[-1]
    expected = explain(adapted, x, 1, "layercam", layer=f"encoder.model.blocks.{last}").maps
    for layer in (None, "encoder", "encoder.model.blocks"):
        near(explain(adapted, x, 1, "layercam", layer=layer).maps, expected)


def test_pixels_are_explained_by_the_gradient(dpt: Network) -> None:
    x, region = images(2, 64, 96), a_region(2, 64, 96)
    adapted = cnnseg.adapt(dpt, region)

    def gradient(at: Tensor) -> Tensor:
        given = at.clone().requires_grad_()
        return torch.autograd.grad(mean_score(dpt.module(given)[1], region, 2), given)[0]

    near(explain(adapted, x, 2, "input_x_gradient").maps, (gradient(x) * x).sum(1))
    points, weights = np.polynomial.legendre.leggauss(20)
    mean = sum(w / 2 * gradient((p + 1) / 2 * x) for p, w in zip(points, weights, strict=True))
    near(explain(adapted, x, 2, "integrated_gradients").maps, (mean * x).sum(1))


# --- as every explanation is ---


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_equals_a_loop_and_the_region_may_be_replaced(dpt: Network, method: str) -> None:
    x, region = images(3), a_region(3)
    adapted = cnnseg.adapt(dpt, region)
    both = explain(adapted, x, [[1, 2]] * 3, method).maps
    for index in range(3):
        adapted.region = region[index : index + 1]
        for place, target in enumerate((1, 2)):
            near(explain(adapted, x[index : index + 1], target, method).maps[0], both[index, place])


@pytest.mark.parametrize("method", METHODS)
def test_the_network_is_left_as_it_was(method: str) -> None:
    network = dpt_network().module.train()
    network.encoder.model.blocks[1].eval()
    calls = []
    network.decoder.register_forward_hook(lambda *given: calls.append(1))
    adapted = cnnseg.adapt(network)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in network.modules()]
    parts = [dict(vars(module)) for module in network.modules()]
    explain(adapted, images(), 1, method)
    list_layers(adapted, images())
    assert [module.training for module in network.modules()] == modes and calls
    assert [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in network.modules()] == hooks
    assert [dict(vars(module)).keys() for module in network.modules()] == [part.keys() for part in parts]
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


class Counts(nn.Module):
    """Writes into a buffer and an attribute in its forward function."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.body, self.seen = tiny(), 0

    def forward(self, images: Tensor) -> Tensor:
        if images.isfinite().all():
            self.calls += 1
            self.seen += 1
        return self.body(images)


def test_what_a_forward_function_writes_is_not_left() -> None:
    model = Counts().double().eval()
    for method in METHODS:
        explain(model, images(), 1, method)
    assert model.calls == 0 and model.seen == 0


# --- what is refused, in one line ---


class Odd(nn.Module):
    """A network with modules whose outputs are no maps."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.pair, self.flat, self.twice = tiny(), Pair(), nn.Flatten(2), Twice()
        self.unused, self.alone = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        self.unused(images)
        first, _ = self.pair(images)
        x = self.twice(images)[: len(images)] + self.flat(first).view_as(first)
        return self.body(x) if x.isfinite().all() else x


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("bdy", "layer 'bdy' is unknown to the model: did you mean 'body'"),
        ("alone", "layer 'alone': gives no maps that reach the class scores"),
        ("pair", "layer 'pair': gives a tuple, no maps, to the class scores"),
        ("flat", r"layer 'flat': expected maps .*, got \(3, 4096\).* tokens is known of timm's"),
        ("body.head", r"layer 'body.head': expected maps .*, got \(4,\)"),
        ("twice", "layer 'twice': gives 4 outputs for 2 images"),
        ("unused", "layer 'unused': no gradient of the class scores reaches its output"),
    ],
)
def test_layers_without_maps_are_named(layer: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        explain(Odd().double().eval(), images(), 1, "layercam", layer=layer)
    assert "\n" not in str(caught.value)


def test_modules_that_the_scores_do_not_hang_on_are_not_listed() -> None:
    names = list(layers_with_maps(Odd().double().eval(), 4))
    assert "twice" in names and "body.third" in names and not {"unused", "alone", "flat"} & set(names)


@pytest.mark.parametrize("method", ["lrp", "cam"])
def test_methods_that_need_the_trace_name_those_that_do_not(dpt: Network, method: str) -> None:
    said = (
        rf"^{method}: needs a network that torch.fx can follow \(SegmentationNetwork: its forward function depends on "
        r"values .*\); gradcam, layercam, input_x_gradient and integrated_gradients work$"
    )
    adapted = cnnseg.adapt(dpt)
    for ask in (lambda: explain(adapted, images(), 1, method), lambda: check_explanation(adapted, method)):
        with pytest.raises(InputError, match=said):
            ask()


class Fixed(nn.Module):
    """A ViT of one size of images."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm.create_model("test_vit", num_classes=3, img_size=64)

    def forward(self, images: Tensor) -> Tensor:
        return self.vit(images) if images.isfinite().all() else images


class Attends(nn.Module):
    """An attention block on tokens that no patch embedding of timm made."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend = nn.Conv2d(3, 8, 16, 16), nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        return self.head(self.attend(tokens).mean(1)) if images.isfinite().all() else images


class Choosy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        self.layer(images)
        raise InputError("images: this model wants them otherwise")


def test_a_transformer_within_a_model_of_ones_own() -> None:
    torch.manual_seed(0)
    model = Fixed().double().eval()
    assert explain(model, images(), 1, "layercam", layer="vit.blocks.3").maps.any()
    with pytest.raises(InputError, match=r"layer 'vit\.norm': the class scores hang on its prefix tokens alone"):
        explain(model, images(), 1, "layercam")
    with pytest.raises(InputError, match="images of 40 x 40: the model does not take them"):
        explain(model, images(2, 40, 40), 1, "gradcam")
    with pytest.raises(InputError, match=r"^images: this model wants them otherwise$"):  # says it all itself
        explain(Choosy().double().eval(), images(), 1, "gradcam")
    with pytest.raises(InputError, match=r"layer 'vit.blocks.0.attn.q_norm': expected maps .* 4 x 4 patches"):
        explain(model, images(), 1, "gradcam", layer="vit.blocks.0.attn.q_norm")
    with pytest.raises(InputError, match=r"layer 'attend': expected maps .*, got \(16, 8\).* known of timm's"):
        explain(Attends().double().eval(), images(), 1, "gradcam", layer="attend")


def test_a_part_that_is_scripted_is_refused() -> None:
    model = Hidden(torch.jit.trace(tiny(), images()))
    with pytest.raises(InputError, match=r"layer 'body' is a .*, into which no hook reaches"):
        explain(model, images(), 1, "gradcam")


# --- the commands, and the explorer ---


def asks(*tokens: object) -> int:
    return run(cli.app, [str(token) for token in tokens])


def test_the_command_explains_a_dpt(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["explain-segmentation", files / "a.png", "--network", files / "net.safetensors", "--pixel", "40,30"]
    command += ["--class", "cat", "--device", "cpu", "--out", tmp_path]
    network = load_network(files / "net.safetensors")
    explainer = RegionExplainer(network)
    seen = explainer.see(files / "a.png")
    for options in ([], ["--method", "layercam", "--layer", "decoder"], ["--method", "input_x_gradient"]):
        assert asks(*command, *options) == 0
    with np.load(tmp_path / "a_cat.x40y30.layercam.decoder.npz") as saved:
        region = torch.zeros(1, 1, 70, 90)
        region[0, 0, 30, 40] = 1
        adapted = cnnseg.adapt(network, region)
        expected = explain(adapted, seen.images, 1, "layercam", layer="decoder").maps[0].numpy()
        assert np.abs(saved["maps"][0] - expected).max() <= 1e-5 * expected.max() and expected.max() > 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"a_cat.x40y30.gradcam.encoder.png", "a_cat.x40y30.input_x_gradient.png"} <= names
    capsys.readouterr()
    assert asks(*command, "--method", "lrp") == 2
    assert "lrp: needs a network that torch.fx can follow" in capsys.readouterr().err
    assert asks(*command, "--all-layers", "--method", "layercam") == 0


def test_list_layers_of_a_dpt(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asks("list-layers", "--network", files / "net.safetensors", "--size", "96") == 0
    captured = capsys.readouterr()
    lines = (captured.out + captured.err).splitlines()
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    assert rows["encoder.model.blocks.0"] == "64 6 x 6 16"
    assert rows["encoder"] == "64 6 x 6 16 unless --layer is given"
    assert rows["decoder"] == "16 48 x 48 2"
    assert rows["segmentation_head"].endswith("the network's answer")
    order = list(rows)
    assert order.index("encoder.model.blocks.0") < order.index("encoder") < order.index("decoder")
    assert not any(name.startswith("classification_head") or ".attn" in name for name in rows)
    assert asks("list-layers", "--network", files / "net.safetensors", "--size", "96", "--every") == 0
    assert "encoder.model.blocks.0.attn.qkv" in "".join(capsys.readouterr())


def test_listed_layers_are_taken_and_have_the_size_that_is_said(dpt: Network) -> None:
    x, adapted = images(1, 64, 96), cnnseg.adapt(dpt, a_region(1, 64, 96))
    layers = list_layers(adapted, x, every=True)
    assert usual_layer(layers).name == "encoder" and len({layer.name for layer in layers}) == len(layers)
    for layer in layers:
        assert explain(adapted, x, 1, "layercam", layer=layer.name).maps.shape[1:] == layer.size


def offers_what_works(tested: ExplainedSegmenter, photograph: np.ndarray) -> None:
    assert [method.name for method in tested.methods] == list(METHODS)
    look = tested.look(photograph)
    names = [layer.name for layer in look.layers]
    assert {"encoder", "encoder.model.blocks.0", "decoder"} <= set(names)
    region = Region(np.ones(photograph.shape[:2], bool))
    for method, layer in [("gradcam", None), ("layercam", "decoder"), ("input_x_gradient", None)]:
        setting = Setting(method=method, layer=layer, rules=None, target=1, score="logit")
        answer = tested.explain(look, setting, region, lambda share: None)
        expected = next((one.size for one in look.layers if one.name == layer), answer.map.shape)
        assert np.isfinite(answer.map).all() and answer.map.shape == expected
        assert answer.map.any() or method != "input_x_gradient"


def test_the_explorer_offers_the_methods_and_layers_that_there_are(files: Path) -> None:
    network = load_network(files / "net.safetensors")
    offers_what_works(ExplainedSegmenter(network, "dpt"), np.array(Image.open(files / "a.png")))


@pytest.mark.skipif(not SHIPPED.is_file(), reason="the shipped network is not here")
def test_the_explorer_takes_the_shipped_network() -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    offers_what_works(ExplainedSegmenter(load_network(SHIPPED), "shipped"), photograph)

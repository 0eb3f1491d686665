"""`explain` of models as people have them: wrapped, subclassed, with heads of their own, used by other threads."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from peers import noise, oracle, tiny_vit
from timm.layers import Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vitseg import explain
from vitseg.methods import METHODS
from vitseg.relevance import capture
from wsss.errors import InputError
from wsss.private import private_copy

METHOD_NAMES = sorted(METHODS)
WITHOUT_CLASS = sorted(name for name, method in METHODS.items() if not method.class_specific)
IMAGES = noise(2, 3, 24, 24)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


class Normalise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3, 1, 1), 0.4).double())

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / 0.25


# Wrappers

WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "data_parallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "compiled_in_place": lambda model: model.compile(backend="eager") or model,
    "compiled_data_parallel": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
    "blocks_compiled": lambda model: wrap_parts(model, lambda block: torch.compile(block, backend="eager")),
    "blocks_data_parallel": lambda model: wrap_parts(model, nn.DataParallel),
}


def wrap_parts(model: VisionTransformer, wrapper: Callable[[nn.Module], nn.Module]) -> VisionTransformer:
    for index, block in enumerate(model.blocks):
        model.blocks[index] = wrapper(block)
    return model


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_change_nothing(wrapper: Callable[[nn.Module], nn.Module]) -> None:
    expected = explain(tiny_vit(), IMAGES, [[0, 1], [2, 3]])
    found = explain(wrapper(tiny_vit()), IMAGES, [[0, 1], [2, 3]])
    same(found.maps, expected.maps)
    same(found.logits, expected.logits)


def test_distributed_data_parallel(tmp_path: object) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        model = tiny_vit()
        expected = explain(model, IMAGES, 1).maps
        same(explain(nn.parallel.DistributedDataParallel(model), IMAGES, 1).maps, expected)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_images_are_prepared_by_what_is_in_front(method: str) -> None:
    front = Normalise()
    expected = explain(tiny_vit(seed=9), front(IMAGES), 1, method)
    for wrapped in (
        nn.Sequential(front, tiny_vit(seed=9)),
        nn.DataParallel(nn.Sequential(front, nn.DataParallel(tiny_vit(seed=9)))),
    ):
        found = explain(wrapped, IMAGES, 1, method)
        same(found.maps, expected.maps)
        same(found.logits, expected.logits)


def test_the_front_is_in_evaluation_mode_and_untouched() -> None:
    class Jitter(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images + torch.rand_like(images) if self.training else images

    model = nn.Sequential(Jitter(), tiny_vit()).train()
    same(explain(model, IMAGES, 1).maps, explain(tiny_vit(), IMAGES, 1).maps)
    assert all(module.training for module in model.modules())


def test_a_front_of_another_type_is_named() -> None:
    class Single(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.float()

    with pytest.raises(InputError, match=r"images: expected torch.float64 on cpu, got torch.float32"):
        explain(nn.Sequential(Single(), tiny_vit()), IMAGES)


# Threads and autocast


@pytest.mark.parametrize("method", ["rollout", "transformer_attribution"])
def test_threads_share_a_model(method: str) -> None:
    """Explanations, and a training step that sees neither hooks nor modes of theirs."""
    model, inputs = tiny_vit().train(), [noise(1, 3, 24, 24, seed=seed) for seed in range(12)]
    expected = [explain(model, one, 1, method).maps for one in inputs]
    done, wrong = threading.Event(), []

    def use() -> None:
        want = model(IMAGES).detach()
        while not done.is_set():
            logits = model(IMAGES)
            fused = all(block.attn.fused_attn and block.training for block in model.blocks)
            hooks = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
            gradient = torch.autograd.grad(logits.sum(), model.head.weight)[0]
            if not (torch.equal(logits, want) and fused and not hooks and gradient.any()):
                wrong.append(logits)

    user = threading.Thread(target=use)
    user.start()
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda one: explain(model, one, 1, method).maps, inputs))
    done.set()
    user.join()
    assert not wrong
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("rules", ["exact", "robust"])
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_autocast_of_the_caller_changes_nothing(method: str, rules: str) -> None:
    model, images = tiny_vit(seed=9).float(), IMAGES.float()
    expected = explain(model, images, 1, method, rules=rules)
    with torch.autocast("cpu", torch.bfloat16):
        found = explain(model, images, 1, method, rules=rules)
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(found.maps, expected.maps) and torch.equal(found.logits, expected.logits)


# Subclasses and parts


def test_a_subclass_that_overrides_nothing_of_the_pass() -> None:
    class Mine(VisionTransformer):
        def features(self, x: Tensor) -> Tensor:
            return self.forward_features(x)

        def extra_repr(self) -> str:
            return "mine"

    model = tiny_vit()
    expected = explain(model, IMAGES, 1).maps
    model.__class__ = Mine
    same(explain(model, IMAGES, 1).maps, expected)


@pytest.mark.parametrize("method", ["forward", "forward_features", "forward_head", "pool", "_pos_embed"])
@pytest.mark.parametrize("distilled", [False, True])
def test_what_overrides_the_pass_is_refused_by_name(method: str, distilled: bool) -> None:
    model = tiny_vit(distilled=distilled)
    kind = type(model)
    model.__class__ = type("Mine", (kind,), {method: lambda self, x: getattr(super(kind, self), method)(x)})
    with pytest.raises(InputError, match=rf"model Mine: overrides {method} of timm's {kind.__name__}"):
        explain(model, IMAGES)
    model.__class__ = kind
    setattr(model, method, lambda x: x)
    with pytest.raises(InputError, match=rf"its {method} was replaced on the object; del model.{method}"):
        explain(model, IMAGES)


@pytest.mark.parametrize("name", ["blocks.1", "blocks.2.attn", "blocks.0.mlp.act", "patch_embed", "patch_embed.proj"])
def test_a_patched_forward_is_refused_by_name(name: str) -> None:
    model = tiny_vit()
    model.get_submodule(name).forward = lambda x, *_, **__: x
    with pytest.raises(InputError, match=rf"forward of {name} was replaced on the object"):
        explain(model, IMAGES)


class LowRank(nn.Module):
    """LoRA as peft and others build it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.Linear(layer.in_features, 2, bias=False).double()
        self.lora_B = nn.Linear(2, layer.out_features, bias=False).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


class OwnLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class OwnNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flip(-1)


def own_linear(layer: nn.Linear) -> nn.Linear:
    layer.__class__ = OwnLinear
    return layer


@pytest.mark.parametrize(
    ("name", "change", "line"),
    [
        ("blocks.2.attn.qkv", nn.Sequential, "is a Sequential; expected a plain torch.nn.Linear: put the layer itself"),
        ("blocks.0.attn.proj", LowRank, r"is a LowRank; expected a plain torch.nn.Linear: .*merge_and_unload\(\)"),
        ("blocks.0.mlp.fc1", own_linear, "is a OwnLinear; expected a plain torch.nn.Linear: put the layer itself"),
        ("blocks.1.mlp.fc2", lambda _: nn.Identity(), "is a Identity; expected a plain torch.nn.Linear"),
        ("blocks.1.mlp.act", lambda _: nn.Sequential(nn.Linear(64, 64), nn.GELU()), "is a Sequential; expected an act"),
        ("blocks.1.mlp.act", lambda _: nn.Softmax(-1), "is a Softmax; expected an activation"),
        ("blocks.1.norm1", lambda _: OwnNorm(16), "is a OwnNorm; expected a LayerNorm or RmsNorm"),
        ("blocks.1.attn.q_norm", lambda _: nn.Linear(8, 8), "is a Linear; expected a LayerNorm or RmsNorm"),
        ("blocks.1.ls1", lambda _: nn.Linear(16, 16), "is a Linear; expected timm's LayerScale"),
        ("blocks.1.drop_path2", lambda _: nn.Tanh(), "is a Tanh; expected timm's DropPath"),
        ("blocks", lambda blocks: nn.Sequential(blocks), r"blocks\.0 is a Sequential; expected timm's Block"),
        ("norm", lambda norm: nn.Sequential(norm, nn.Linear(16, 16)), "is a Sequential; expected a LayerNorm"),
        ("fc_norm", lambda _: nn.Linear(16, 16), "is a Linear; expected a LayerNorm"),
        ("head", LowRank, r"head is a LowRank; expected a Linear classifier, .*: model.merge_and_unload\(\)"),
        ("head", lambda head: nn.Sequential(head, nn.Softmax(-1)), "head holds a Softmax"),
        ("head", lambda head: nn.Sequential(head, nn.Sigmoid()), "head ends in a Sigmoid; expected class scores"),
        ("head", lambda head: nn.Sequential(LowRank(head)), "head holds a LowRank"),
    ],
)
def test_parts_without_a_rule_are_refused_by_name(
    name: str, change: Callable[[nn.Module], nn.Module], line: str
) -> None:
    model = tiny_vit()
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, change(model.get_submodule(name)).double())
    with pytest.raises(InputError, match=f"model: .*{line}") as refusal:
        explain(model, IMAGES)
    assert "\n" not in str(refusal.value) and name in str(refusal.value)


def test_a_wrapped_patch_embedding_matters_to_pixels_alone() -> None:
    model = tiny_vit()
    expected = explain(model, IMAGES, 1).maps
    model.patch_embed.proj = nn.Sequential(model.patch_embed.proj)
    same(explain(model, IMAGES, 1).maps, expected)
    with pytest.raises(InputError, match=r"patch_embed\.proj is a Sequential; expected a plain torch.nn.Conv2d"):
        explain(model, IMAGES, 1, "lrp")


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.filterwarnings("ignore::FutureWarning")  # weight_norm of old is meant
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_parametrised_layers(method: str) -> None:
    """Layers whose weight is computed: the same map as with that weight stored, old hooks and new parametrisations."""
    plain, new, old = tiny_vit(seed=9), tiny_vit(seed=9), tiny_vit(seed=9)
    for model in (plain, new, old):
        for name in ("blocks.1.attn.qkv", "blocks.2.mlp.fc1", "blocks.0.attn.proj", "head"):
            layer = model.get_submodule(name)
            if model is plain:
                layer.weight.data *= 2
            elif model is new:
                parametrize.register_parametrization(layer, "weight", Doubled())
            else:
                torch.nn.utils.weight_norm(layer)
                layer.weight_g.data *= 2
    expected = explain(plain, IMAGES, [[0, 1], [2, 3]], method).maps
    same(explain(new, IMAGES, [[0, 1], [2, 3]], method).maps, expected)
    same(explain(old, IMAGES, [[0, 1], [2, 3]], method).maps, expected)


def test_hooks_of_the_owner() -> None:
    """What they see is theirs; what they change has no rule."""
    model, seen = tiny_vit(), []
    expected = explain(model, IMAGES, 1).maps
    for index in (1, 2):
        watching = model.blocks[index].register_forward_hook(lambda _m, _a, output: seen.append(output.shape))
        same(explain(model, IMAGES, 1).maps, expected)
        watching.remove()
    assert seen == [(2, 10, 16)] * 2

    def doubles(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
        output.detach().mul_(2)

    for hook in (lambda _m, _a, output: 2 * output, doubles):
        handle = model.blocks[1].attn.register_forward_hook(hook)
        with pytest.raises(InputError, match=r"a forward hook of blocks\.1\.attn changes what passes through"):
            explain(model, IMAGES, 1)
        handle.remove()
    model.head.register_forward_pre_hook(lambda _m, args: (2 * args[0],))
    with pytest.raises(InputError, match="a forward hook of head changes what passes through"):
        explain(model, IMAGES, 1)


def test_backward_hooks_of_the_owner_do_not_run() -> None:
    model = tiny_vit()
    expected = explain(model, IMAGES, 1).maps
    model.blocks[1].register_full_backward_hook(lambda *_: pytest.fail("ran"))
    assert torch.equal(explain(model, IMAGES, 1).maps, expected)


def test_private_copies_share_the_weights_and_keep_ties() -> None:
    model = tiny_vit()
    model.blocks[1].mlp = model.blocks[0].mlp
    copy = private_copy(model)
    assert copy.blocks[1].mlp is copy.blocks[0].mlp is not model.blocks[0].mlp
    for one, other in zip(copy.parameters(), model.parameters(), strict=True):
        assert one.data_ptr() == other.data_ptr() and not one.requires_grad


def test_what_was_recorded_goes_with_the_trace() -> None:
    """At once, not when the garbage collector comes round to it: it is the most of the memory."""
    gc.collect()
    gc.disable()
    try:
        trace = capture.run(tiny_vit(), IMAGES)
        held = [weakref.ref(trace.blocks[0]), weakref.ref(trace.blocks[-1]), weakref.ref(trace.normed)]
        assert trace.blocks[-1].fc1_in.shape == (2, 1, 16)
        del trace
        assert [one() for one in held] == [None] * 3
    finally:
        gc.enable()


# Heads


def head_of(*layers: nn.Module) -> nn.Sequential:
    """In float64, no parameter or statistic at a special value."""
    head = nn.Sequential(*layers).double()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for tensor in head.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.3 * torch.rand_like(tensor)
    return head


HEADS: dict[str, Callable[[], nn.Sequential]] = {
    "dropout": lambda: head_of(nn.Dropout(0.5), nn.Linear(16, 5)),
    "probe": lambda: head_of(nn.BatchNorm1d(16), nn.Linear(16, 5)),
    "gelu": lambda: head_of(nn.Linear(16, 12), nn.GELU(), nn.Dropout(0.5), nn.LayerNorm(12), nn.Linear(12, 5)),
    "relu": lambda: head_of(nn.LayerNorm(16), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 5), nn.Dropout(0.2)),
    "three": lambda: head_of(
        nn.Linear(16, 9, bias=False), nn.Tanh(), nn.Linear(9, 7), nn.PReLU(), nn.Identity(), nn.Linear(7, 5)
    ),
}
POOLINGS = {"token": {}, "mean": {"global_pool": "avg"}, "distilled": {"distilled": True}}


@pytest.mark.parametrize("rules", ["exact", "robust"])
@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("pooling", POOLINGS.values(), ids=POOLINGS)
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_heads_of_several_layers_equal_their_oracle(
    head: Callable[[], nn.Sequential], pooling: dict[str, object], method: str, rules: str
) -> None:
    model = tiny_vit(seed=9, **pooling).train()
    torch.manual_seed(9)  # by some heads a class has no attribution at all, and the oracle divides 0 by 0
    model.head = head()
    if "distilled" in pooling:
        model.head_dist = head_of(*head())
    found = explain(model, IMAGES, [[0, 3], [4, 1]], method, rules=rules)
    model.eval()
    same(found.logits, model(IMAGES).detach())
    for maps, image, targets in zip(found.maps, IMAGES, ([0, 3], [4, 1]), strict=True):
        for one, target in zip(maps, targets, strict=True):
            expected = oracle(method, model, image, target, rules)
            assert (one.flatten() - expected).abs().max() <= (1e-7 if method == "lrp" else 1e-9) * expected.max()


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_nested_heads_are_their_layers(method: str) -> None:
    flat, nested, mlp = (tiny_vit(seed=9) for _ in range(3))
    layers = [nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 5)]
    flat.head = nn.Sequential(*layers).double()
    nested.head = nn.Sequential(nn.Sequential(nn.Dropout(), layers[0]), nn.Sequential(*layers[1:]))
    mlp.head = Mlp(16, 12, 5).double()
    mlp.head.fc1, mlp.head.fc2 = layers[0], layers[2]
    expected = explain(flat, IMAGES, 1, method).maps
    same(explain(nested, IMAGES, 1, method).maps, expected)
    same(explain(mlp, IMAGES, 1, method).maps, expected)


@pytest.mark.parametrize("pooling", POOLINGS.values(), ids=POOLINGS)
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_models_without_a_classifier(pooling: dict[str, object], method: str) -> None:
    model = tiny_vit(**pooling, num_classes=0)
    if method not in WITHOUT_CLASS:
        with pytest.raises(InputError, match=f"head holds no Linear classifier; {method} explains a class.*rollout"):
            explain(model, IMAGES, method=method)
        return
    found = explain(model, IMAGES, method=method)
    assert found.logits.shape == (2, 0) and found.targets.tolist() == [0, 0] and found.maps.shape == (2, 3, 3)
    for one, image in zip(found.maps, IMAGES, strict=True):
        same(one.flatten(), oracle(method, model, image, 0, "robust"))
    for targets in (0, [0, 0], [[0], [0]]):
        with pytest.raises(InputError, match="targets: the model has no classes"):
            explain(model, IMAGES, targets, method)


def test_methods_without_a_class_are_known() -> None:
    assert WITHOUT_CLASS == ["attention_perception", "raw_attention", "rollout"]


@pytest.mark.parametrize("rules", ["exact", "robust"])
@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("pooling", POOLINGS.values(), ids=POOLINGS)
@pytest.mark.parametrize("deep", [False, True], ids=["linear", "mlp"])
def test_one_output_is_a_class_and_its_negative(
    deep: bool, pooling: dict[str, object], method: str, rules: str
) -> None:
    """As two outputs with weights w and -w."""
    one, two = tiny_vit(seed=9, num_classes=1, **pooling), tiny_vit(seed=9, num_classes=2, **pooling)
    state = one.state_dict()
    for key in list(state):
        if key.startswith("head"):
            state[key] = torch.cat([state[key], -state[key]])
    two.load_state_dict(state)
    if deep:
        trunk = head_of(nn.Linear(16, 16), nn.GELU())
        one.head, two.head = nn.Sequential(trunk, one.head), nn.Sequential(trunk, two.head)
    found = explain(one, IMAGES, [[0, -1], [-1, 0]], method, rules=rules)
    expected = explain(two, IMAGES, [[0, 1], [1, 0]], method, rules=rules)
    same(found.maps, expected.maps)
    assert found.targets.tolist() == [[0, -1], [-1, 0]] and found.logits.shape == (2, 1)
    top = explain(one, IMAGES, method=method, rules=rules)
    same(top.maps, torch.stack([found.maps[0, 0], found.maps[1, 1]]))
    assert top.targets.tolist() == [0, 0]
    with pytest.raises(InputError, match="targets: expected classes -1 to 0, got 0 to 1"):
        explain(one, IMAGES, [0, 1], method)


def test_a_foreign_vit_is_sent_to_the_conversion() -> None:
    from torchvision.models import VisionTransformer as Torchvision

    model = Torchvision(image_size=24, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32)
    with pytest.raises(InputError, match=r"model VisionTransformer: not supported; .*; vitseg.to_timm\(model\)"):
        explain(model, IMAGES.float())
    with pytest.raises(InputError, match=r"model ResNet: not supported; .*\)$"):
        explain(timm.create_model("resnet10t"), torch.zeros(1, 3, 64, 64))

"""What a timm ViT may be made of for propagation to have a rule for all of it, and how its parts are found."""

from __future__ import annotations

import re

from timm import layers
from timm.layers import Attention, DropPath, Mlp, PatchDropout, PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, LayerScale, VisionTransformer
from torch import nn
from torch.nn.modules import activation

from wsss.errors import InputError
from wsss.genuine import own_call, replaced_method

METHODS_OF_THE_PASS = ("__call__", "forward", "forward_features", "forward_head", "pool", "_pos_embed")

LINEAR = (nn.Linear,)
DROPS = (nn.Dropout, DropPath, PatchDropout, nn.Identity)
NORMS = (
    *(nn.LayerNorm, nn.RMSNorm, layers.LayerNorm, layers.LayerNormFp32, layers.RmsNorm, layers.RmsNormFp32),
    *(layers.SimpleNorm, layers.SimpleNormFp32, nn.Identity),
)
SCALES = (LayerScale, layers.LayerScale, nn.Identity)
KINDS = {  # what the parts of a block have to be, and in words
    "norm1": (NORMS, "a LayerNorm or RmsNorm"),
    "attn": ((Attention,), "timm's plain Attention"),
    "attn.qkv": (LINEAR, "a plain torch.nn.Linear"),
    "attn.q_norm": (NORMS, "a LayerNorm or RmsNorm"),
    "attn.k_norm": (NORMS, "a LayerNorm or RmsNorm"),
    "attn.attn_drop": (DROPS, "a Dropout"),
    "attn.norm": (NORMS, "a LayerNorm or RmsNorm"),
    "attn.proj": (LINEAR, "a plain torch.nn.Linear"),
    "attn.proj_drop": (DROPS, "a Dropout"),
    "ls1": (SCALES, "timm's LayerScale"),
    "drop_path1": (DROPS, "timm's DropPath"),
    "norm2": (NORMS, "a LayerNorm or RmsNorm"),
    "mlp": ((Mlp,), "timm's Mlp"),
    "mlp.fc1": (LINEAR, "a plain torch.nn.Linear"),
    "mlp.act": ((), "an activation without weights"),
    "mlp.drop1": (DROPS, "a Dropout"),
    "mlp.norm": (NORMS, "a LayerNorm or RmsNorm"),
    "mlp.fc2": (LINEAR, "a plain torch.nn.Linear"),
    "mlp.drop2": (DROPS, "a Dropout"),
    "ls2": (SCALES, "timm's LayerScale"),
    "drop_path2": (DROPS, "timm's DropPath"),
}
AROUND = {  # likewise outside the blocks
    "pos_drop": (DROPS, "a Dropout"),
    "patch_drop": (DROPS, "timm's PatchDropout"),
    "norm_pre": (NORMS, "a LayerNorm or RmsNorm"),
    "norm": (NORMS, "a LayerNorm or RmsNorm"),
    "fc_norm": (NORMS, "a LayerNorm or RmsNorm"),
    "head_drop": (DROPS, "a Dropout"),
}
ACROSS_CHANNELS = (activation.Softmax, activation.Softmin, activation.LogSoftmax, activation.GLU)


def is_one(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether `module` computes just what one of `kinds` does: of that class, or one with the same ``forward``.

    So is a parametrised layer (`torch.nn.utils.parametrize`) and a subclass that adds something beside the pass.
    """
    known = any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)
    return known and own_call(type(module)) is None


def is_activation(module: nn.Module) -> bool:
    """Whether `module` maps each number by itself, as far as can be told: nothing in it, no weights but a PReLU's."""
    if isinstance(module, ACROSS_CHANNELS) or any(True for _ in module.children()):
        return False
    return isinstance(module, nn.PReLU) or not any(True for _ in module.parameters())


def classifiers(model: VisionTransformer) -> tuple[nn.Module, ...]:
    """The heads whose mean is the class score, each of a token or mean of its own: one, two of a distilled model."""
    return (model.head, model.head_dist) if isinstance(model, VisionTransformerDistilled) else (model.head,)


def layers_of(head: nn.Module) -> list[nn.Module]:
    """The layers of a head in the order of the pass: itself, or those of a Sequential or Mlp."""
    if is_one(head, nn.Sequential):
        return [layer for part in head for layer in layers_of(part)]
    if is_one(head, Mlp):
        return [layer for part in (head.fc1, head.act, head.drop1, head.norm, head.fc2) for layer in layers_of(part)]
    return [head]


def linear_layers(head: nn.Module) -> list[nn.Linear]:
    """The Linear layers of a head in the order of the pass; none if the model has no classifier."""
    return [layer for layer in layers_of(head) if isinstance(layer, nn.Linear)]


def headless(model: VisionTransformer) -> bool:
    """Whether the model gives features and no class scores."""
    return not any(linear_layers(head) for head in classifiers(model))


def pixels_reachable(model: VisionTransformer) -> bool:
    """Whether relevance can be led on from the tokens to the pixels: a plain patch embedding, not a trunk.

    Raises:
        InputError: a patch embedding whose convolution was wrapped or replaced.
    """
    embedding = model.patch_embed
    if not is_one(embedding, PatchEmbed):
        return False
    _expect(embedding.proj, "patch_embed.proj", (nn.Conv2d,), "a plain torch.nn.Conv2d")
    return isinstance(embedding.norm, nn.Identity) and embedding.proj.in_channels == 3


def check_supported(model: nn.Module) -> None:
    """Raise InputError, naming the part and the remedy, if propagation has no rule for something in `model`."""
    if not isinstance(model, VisionTransformer):
        hint = "; vitseg.to_timm(model) converts it" if _convertible(model) else ""
        known = "propagation knows timm's VisionTransformer (vit_*, deit_*)"
        raise InputError(f"model {type(model).__name__}: not supported; {known}{hint}")
    _check_methods(model)
    if model.global_pool not in ("token", "avg") or model.attn_pool is not None:
        raise InputError(
            f"model: global_pool {model.global_pool!r} is not supported, only 'token' (the class token) and 'avg'"
        )
    if model.global_pool == "avg" and model.pool_include_prefix:
        raise InputError("model: a mean that takes in the class token (pool_include_prefix) is not supported")
    _expect(model.blocks, "blocks", (nn.Sequential,), "a Sequential of timm's Block")
    for index, block in enumerate(model.blocks):
        _expect(block, f"blocks.{index}", (Block,), "timm's Block")
        for name, (kinds, words) in KINDS.items():
            _expect(block.get_submodule(name), f"blocks.{index}.{name}", kinds, words)
        if block.attn.gate is not None:
            raise InputError(f"model: blocks.{index}.attn has a gate, without a rule; expected timm's plain Attention")
    for name, (kinds, words) in AROUND.items():
        _expect(getattr(model, name), name, kinds, words)
    _check_heads(model)


def _convertible(model: nn.Module) -> bool:
    """Whether `vitseg.to_timm` is likely to know the model, by its name and not by an import."""
    library = type(model).__module__.split(".")[0]
    return library in ("torchvision", "transformers") and bool(re.match("Vision|ViT|DeiT|Dinov2", type(model).__name__))


def _check_methods(model: VisionTransformer) -> None:
    """The pass has to be timm's: neither overridden in a subclass nor patched on an object."""
    base = VisionTransformerDistilled if isinstance(model, VisionTransformerDistilled) else VisionTransformer
    for method in METHODS_OF_THE_PASS:
        if getattr(type(model), method) is not getattr(base, method):
            raise InputError(
                f"model {type(model).__name__}: overrides {method} of timm's {base.__name__}, so the rules may not "
                "fit what it computes; explain a model that does not"
            )
        if method in model.__dict__:
            raise InputError(f"model: its {method} was replaced on the object; del model.{method} gives it back")
    for name, module in model.named_modules():
        passes = METHODS_OF_THE_PASS[1:] if module is model else ("forward",)
        if (replaced := replaced_method(type(module), passes)) is not None:
            raise InputError(
                f"model: {replaced}, which {name or 'the model'} computes by, is not that of its library but another "
                "function, so the rules may not fit what it computes; put the library's back"
            )
        if "forward" in module.__dict__:
            raise InputError(
                f"model: forward of {name} was replaced on the object, so the rules may not fit what it computes; "
                f"del model.{name}.forward gives it back"
            )


def _expect(module: nn.Module, name: str, kinds: tuple[type[nn.Module], ...], words: str) -> None:
    if is_one(module, *kinds) or (not kinds and is_activation(module)):
        return
    if any(hasattr(module, attribute) for attribute in ("base_layer", "lora_A", "lora_B")):
        remedy = "merge its weights into the layer first, with model.merge_and_unload() of peft"
    elif is_one(module, nn.Sequential) or isinstance(module, *kinds[:1] or (nn.Identity,)):
        remedy = "put the layer itself in its place"
    else:
        remedy = "there is no other rule"
    raise InputError(f"model: {name} is a {type(module).__name__}; expected {words}: {remedy}")


def _check_heads(model: VisionTransformer) -> None:
    """Heads are Linear, or Linear layers with activations, drop-out and norms in between, or nothing at all."""
    names = ("head", "head_dist")
    for name, head in zip(names, classifiers(model), strict=False):
        found = layers_of(head)
        for layer in found:
            if not is_one(layer, *LINEAR, *NORMS, *DROPS, nn.BatchNorm1d, nn.Flatten) and not is_activation(layer):
                merge = "; merge its weights first: model.merge_and_unload()" if hasattr(layer, "base_layer") else ""
                inside = "" if layer is head else f"holds a {type(layer).__name__}"
                raise InputError(
                    f"model: {name} {inside or f'is a {type(head).__name__}'}; expected a Linear classifier, or a "
                    f"Sequential of Linear, activation, drop-out and norm layers{merge}"
                )
        after = next((layer for layer in reversed(found) if not is_one(layer, *DROPS)), None)
        if linear_layers(head) and not isinstance(after, nn.Linear):
            raise InputError(
                f"model: {name} ends in a {type(after).__name__}; expected class scores, so leave off what follows the "
                "last Linear"
            )
    if len({len(linear_layers(head)) > 0 for head in classifiers(model)}) > 1:
        raise InputError("model: one of its two heads has no Linear classifier; expected both to have one or neither")

"""Vision transformers of torchvision and Hugging Face as timm's, with the same scores."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from wsss.errors import InputError
from wsss.explanation import undisturbed, unwrap
from wsss.private import private_copy

TORCHVISION = ("VisionTransformer",)
HUGGING_FACE = (  # recognised by name, so that transformers need not be installed
    *("ViTForImageClassification", "ViTModel", "DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"),
    *("DeiTModel", "Dinov2Model", "Dinov2ForImageClassification"),
)
LIBRARIES = {"torchvision": TORCHVISION, "transformers": HUGGING_FACE}

NAMES = (  # theirs to timm's, applied in turn: torchvision, transformers 5 and transformers 4 spell them differently
    (r"^(vit|deit|dinov2)\.", ""),
    (r"^(encoder\.)?layers?\.(encoder_layer_)?(\d+)\.", r"blocks.\3."),
    (r"\.(layernorm_before|ln_1)\.", ".norm1."),
    (r"\.(layernorm_after|ln_2)\.", ".norm2."),
    (r"\.attention\.(attention\.)?(q|k|v)(_proj|uery|ey|alue)\.", r".attn.\2."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.(attention\.o_proj|attention\.output\.dense|self_attention\.out_proj)\.", ".attn.proj."),
    (r"\.(intermediate\.dense|mlp\.0|mlp\.linear_1)\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.(output\.dense|mlp\.3|mlp\.linear_2)\.", r"\1.mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"^(encoder\.)?(layernorm|ln)\.", "norm."),
    (r"^(embeddings\.cls_token|class_token)$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^(embeddings\.position_embeddings|encoder\.pos_embedding)$", "pos_embed"),
    (r"^(embeddings\.patch_embeddings\.projection|conv_proj)\.", "patch_embed.proj."),
)
LEFT_OFF = r"^(embeddings\.mask_token|pooler\.|heads\.|(cls_|distillation_)?classifier\.)"  # heads come over whole
ACTIVATIONS = ("mlp.activation_fn", "mlp.activation", "intermediate.intermediate_act_fn", "mlp.1")


@dataclass(frozen=True)
class _Source:
    """What is to be converted."""

    model: nn.Module
    body: nn.Module  # without the heads
    blocks: list[nn.Module]
    heads: tuple[nn.Module, ...]  # none, one, or two of a distilled model
    embedding: nn.Conv2d
    attention_heads: int
    size: tuple[int, int]

    def scores(self, images: Tensor) -> Tensor:
        """Logits, of a model without heads the class token."""
        resized = tuple(images.shape[2:]) != self.size and not hasattr(self.blocks[0], "layer_scale1")
        output = self.model(images, **({"interpolate_pos_encoding": True} if resized else {}))
        if isinstance(output, Tensor):
            return output
        return output.logits if hasattr(output, "logits") else output.last_hidden_state[:, 0]


def to_timm(model: nn.Module, img_size: int | tuple[int, int] | None = None) -> nn.Module:
    """A timm VisionTransformer with the scores of `model`, for `vitseg.explain`.

    Args:
        model: torchvision's VisionTransformer, or ViTForImageClassification, DeiTForImageClassification,
            DeiTForImageClassificationWithTeacher, ViTModel, DeiTModel or Dinov2Model of transformers, wrapped or not
            as in `vitseg.explain`; left as it is. The last three become models without classifier
            (``num_classes=0``), whose feature is the class token behind the last norm; a pooler is left off.
        img_size: (height, width), or one number for both, of the images that it is to take, if not what it was made
            for: the position embedding is then interpolated as Hugging Face does it.

    Returns:
        The converted model: own copies of the weights, of the same dtype and device, in the same mode; without the
        drop-out in the blocks, which is a matter of training. If `model` prepares its images, a Sequential that does so
        too. A model of timm is returned as it is.

    Raises:
        InputError: a model of another kind, or one whose scores come out differently (both are computed once, of a
            random image): parts of it were replaced. Dinov2ForImageClassification reads the class token and the mean of
            the patch tokens side by side, which no pooling of timm's does.
    """
    bare = unwrap(model)
    if isinstance(bare.model, VisionTransformer):
        return model
    source = _read(bare.model)
    size: Any = (
        source.size if img_size is None else (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    )
    converted = _build(source, size)
    converted.load_state_dict(_fitting(_state(source, size, converted), converted, _name(bare.model)))
    for name, head in zip(("head", "head_dist"), source.heads, strict=False):
        setattr(converted, name, copy.deepcopy(head))
    _compare(source, converted, size)
    converted.train(bare.model.training)
    return nn.Sequential(*bare.front, converted) if bare.front else converted


def _name(model: nn.Module) -> str:
    return f"model {type(model).__name__}"


def _read(model: nn.Module) -> _Source:
    names = {
        (library, name)
        for kind in type(model).__mro__
        for library, known in LIBRARIES.items()
        if kind.__module__.split(".")[0] == library
        for name in known
        if kind.__name__ == name
    }
    if not names:
        raise InputError(
            f"{_name(model)}: not converted; known are torchvision's VisionTransformer and transformers' "
            f"{', '.join(HUGGING_FACE[:-1])}"
        )
    ((library, name),) = names
    if library == "torchvision":
        if not isinstance(model.conv_proj, nn.Conv2d):
            raise InputError(f"{_name(model)}: conv_proj: expected one Conv2d, got a {type(model.conv_proj).__name__}")
        blocks = list(model.encoder.layers)
        attention_heads, size = blocks[0].self_attention.num_heads, (model.image_size, model.image_size)
        return _Source(model, model, blocks, (model.heads,), model.conv_proj, attention_heads, size)
    heads = [
        getattr(model, key)
        for key in ("classifier", "cls_classifier", "distillation_classifier")
        if isinstance(getattr(model, key, None), nn.Module)
    ]
    if name == "Dinov2ForImageClassification" and not isinstance(heads[0], nn.Identity):
        raise InputError(
            f"{_name(model)}: its classifier reads the class token and the mean of the patch tokens side by side, "
            "which no pooling of timm's VisionTransformer does; to_timm(model.dinov2) converts it without classifier"
        )
    body = next((part for key in ("vit", "deit", "dinov2") if (part := getattr(model, key, None)) is not None), model)
    blocks = list(body.layers if hasattr(body, "layers") else body.encoder.layer)
    patches = body.embeddings.patch_embeddings
    size = tuple(patches.image_size)
    return _Source(model, body, blocks, tuple(heads), patches.projection, body.config.num_attention_heads, size)


def _build(source: _Source, size: tuple[int, int]) -> VisionTransformer:
    """Timm's model of the same shape, its weights at random."""
    state = dict(_renamed(source))
    hidden, width = state["blocks.0.mlp.fc1.weight"].shape if "blocks.0.mlp.fc1.weight" in state else (1, 1)
    norm = next(part for part in source.model.modules() if isinstance(part, nn.LayerNorm))
    activation = next((part for key in ACTIVATIONS if (part := _part(source.blocks[0], key)) is not None), nn.GELU())
    distilled = len(source.heads) == 2
    kind = VisionTransformerDistilled if distilled else VisionTransformer
    model = kind(
        img_size=size,
        patch_size=source.embedding.kernel_size,
        in_chans=source.embedding.in_channels,
        num_classes=0,  # the heads come over whole
        embed_dim=state["cls_token"].shape[-1],
        depth=len(source.blocks),
        num_heads=source.attention_heads,
        mlp_ratio=(hidden + 0.5) / width,  # timm rounds down
        qkv_bias=any(re.search(r"attn\.(q|qkv)\.bias$", key) for key in state),
        init_values=1e-5 if "blocks.0.ls1.gamma" in state else None,
        reg_tokens=1 if "dist_token" in state and not distilled else 0,  # a token that no head reads
        norm_layer=partial(nn.LayerNorm, eps=norm.eps),
        act_layer=lambda: copy.deepcopy(activation),
    )
    return model.to(state["cls_token"].device, state["cls_token"].dtype)


def _part(module: nn.Module, path: str) -> nn.Module | None:
    for key in path.split("."):
        module = getattr(module, key, None)
    return module if isinstance(module, nn.Module) else None


def _renamed(source: _Source) -> list[tuple[str, Tensor]]:
    renamed = []
    for key, tensor in source.body.state_dict().items():
        if re.match(LEFT_OFF, key):
            continue
        for theirs, timms in NAMES:
            key = re.sub(theirs, timms, key)
        renamed.append((key, tensor))
    return renamed


def _state(source: _Source, size: tuple[int, int], converted: VisionTransformer) -> dict[str, Tensor]:
    """The weights under timm's names: q, k and v in one, positions interpolated to `size`."""
    state = dict(_renamed(source))
    for key in [key for key in state if ".attn.q." in key]:
        parts = [state.pop(key.replace(".attn.q.", f".attn.{part}."), None) for part in "qkv"]
        state[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat([part for part in parts if part is not None])
    if "dist_token" in state and not hasattr(converted, "dist_token"):
        state["reg_token"] = state.pop("dist_token")
    if size != source.size:
        interpolate = getattr(getattr(source.body, "embeddings", None), "interpolate_pos_encoding", None)
        if interpolate is None:
            height, width = source.size
            raise InputError(f"img_size {size}: expected {height} x {width}, which {_name(source.model)} takes alone")
        tokens = converted.num_prefix_tokens + converted.patch_embed.num_patches
        with torch.no_grad():
            state["pos_embed"] = interpolate(state["cls_token"].expand(1, tokens, -1), *size)
    return state


def _fitting(state: dict[str, Tensor], converted: nn.Module, name: str) -> dict[str, Tensor]:
    """`state`; InputError, naming a weight, if it is not just what `converted` holds."""
    expected = {key: tensor.shape for key, tensor in converted.state_dict().items()}
    for key in [*state, *expected]:
        if key not in expected:
            raise InputError(f"{name}: not converted, as timm's VisionTransformer has no counterpart of {key}")
        if key not in state or state[key].shape != expected[key]:
            found = "is missing" if key not in state else f"has shape {tuple(state[key].shape)}"
            raise InputError(f"{name}: not converted; {key} {found}, expected {tuple(expected[key])}")
    return state


@torch.no_grad()
def _compare(source: _Source, converted: VisionTransformer, size: tuple[int, int]) -> None:
    """InputError if both give different scores for an image of noise."""
    token = converted.cls_token
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, source.embedding.in_channels, *size, generator=generator).to(token.device, token.dtype)
    copied = private_copy(source.model)
    with undisturbed(source.model, token.device):
        theirs = _Source(copied, copied, source.blocks, source.heads, source.embedding, 0, source.size).scores(images)
        found = converted.eval()(images)
    tolerance = max(torch.finfo(token.dtype).eps ** 0.5, 1e-5)
    if theirs.shape != found.shape or not torch.allclose(
        theirs, found, rtol=0, atol=tolerance * max(float(theirs.abs().max()), 1e-3)
    ):
        raise InputError(
            f"{_name(source.model)}: not converted, as timm's VisionTransformer with its weights gives other scores; "
            "were parts of it replaced?"
        )

"""The convolutional trunk of a Hybrid-ViT classifier (Athanasiadis et al. 2021, section 3.3.2).

The file says what it holds: JSON under the key ``relseg`` of its metadata names the architecture and, where the trunk
is a model of timm by itself, that model. The trunk's tensors are called ``patch_embed.backbone.*``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.layers import HybridEmbed
from torch import Tensor, nn

from affinity.settings import NetworkConfig
from wsss.errors import InputError

PREFIX = "patch_embed.backbone."


class Stages(nn.Module):
    """The trunk of a hybrid of timm's own; gives the chosen levels as a list, lowest first."""

    def __init__(self, architecture: str, levels: tuple[int, ...]) -> None:
        super().__init__()
        model = timm.create_model(architecture, num_classes=0)
        self.levels, self.pretrained_cfg = list(levels), model.pretrained_cfg
        self.backbone = model.patch_embed.backbone
        infos = getattr(self.backbone, "feature_info", None)
        if not (hasattr(self.backbone, "forward_intermediates") and isinstance(infos, list)):  # only ResNetV2 has both
            raise InputError(
                f"backbone {architecture}: no levels can be taken from its trunk, a {type(self.backbone).__name__}"
            )
        if levels[-1] >= len(infos):
            raise InputError(
                f"levels {levels}: expected some of 0 to {len(infos) - 1}, the levels of the trunk of {architecture}"
            )
        self.channels = [infos[level]["num_chs"] for level in levels]
        self.strides = [infos[level]["reduction"] for level in levels]

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.backbone.forward_intermediates(
            images, indices=self.levels, stop_early=True, intermediates_only=True
        )


def resolve(config: NetworkConfig) -> NetworkConfig:
    """The configuration with `backbone` and `stride_in_conv1` as its checkpoint, `weights`, describes the trunk.

    `backbone` becomes timm's name of the trunk, or that of the whole hybrid where the trunk has no name of its own.

    Raises InputError if `weights` is no checkpoint of a hybrid, or the configuration says otherwise.
    """
    description, _ = _read(config.weights)
    trunk = description.get("trunk") or {"backbone": description["architecture"], "stride_in_conv1": False}
    for field, value in trunk.items():
        given = getattr(config, field)
        if given not in (value, NetworkConfig.model_fields[field].default):
            raise InputError(f"network {field} {given}: the trunk in {config.weights} has {value}; leave it out")
    return config.model_copy(update=trunk)


def is_hybrid(architecture: str) -> bool:
    """Whether timm's model of that name is a Hybrid-ViT as a whole."""
    if not timm.is_model(architecture):
        return False
    with torch.device("meta"):
        return isinstance(getattr(timm.create_model(architecture), "patch_embed", None), HybridEmbed)


def load_trunk(trunk: nn.Module, config: NetworkConfig) -> None:
    """Fill a trunk with the tensors of the classifier in `weights`.

    Raises InputError if the classifier's trunk does not reach so high, or is another.
    """
    _, state = _read(config.weights)
    inner = trunk.backbone if isinstance(trunk, Stages) else trunk
    own = inner.state_dict()
    missing = [name for name in own if name not in state]
    if missing:
        raise InputError(
            f"network levels {config.levels}: the trunk in {config.weights} has no {missing[0].split('.')[0]}; "
            "`--config affinity/hybrid` takes its levels 1 2 3"
        )
    inner.load_state_dict({name: state[name].to(tensor.dtype) for name, tensor in own.items()})


def _read(weights: str | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and the trunk's tensors (their own names) of a classifier."""
    path = Path(weights or "")
    where = f"network weights {weights}"
    if not path.is_file():
        raise InputError(f"{where}: no such file; kind hybrid takes the classifier.safetensors of a Hybrid-ViT")
    try:
        with safe_open(path, "pt") as file:
            description = json.loads((file.metadata() or {}).get("relseg", "{}"))
            names = [name for name in file.keys() if name.startswith(PREFIX)]  # noqa: SIM118 (not a mapping)
            state = {name.removeprefix(PREFIX): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{where}: not a readable safetensors file ({str(error).splitlines()[0]})") from None
    if not state or "architecture" not in description:
        found = description.get("architecture") or description.get("format") or "plain weights"
        raise InputError(f"{where}: holds {found}, no Hybrid-ViT of `vitseg train-classifier`")
    return description, state

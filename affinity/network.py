"""The affinity network: features of several levels of a timm model, brought together on a grid of stride 8.

Ahn and Kwak (CVPR 2018), section 3.2: 1x1 convolutions on the last three levels of a CNN, concatenated, one more
1x1 convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from affinity.hybrid import Stages, is_hybrid, load_trunk, resolve
from affinity.settings import STRIDE, NetworkConfig
from wsss.backbones import create_backbone, strides_first
from wsss.errors import InputError
from wsss.training import freeze_below


class AffinityNetwork(nn.Module):
    """Images to features whose L1 distance is the pixel affinity: W_ij = exp(-||f_i - f_j||_1).

    The features are divided by D, so that this distance is the mean absolute difference of AffinityNet's code and
    does not grow with D.
    """

    def __init__(self, config: NetworkConfig, *, load_weights: bool = True) -> None:
        """
        Args:
            config: the architecture.
            load_weights: False: the trunk is left at random, for a checkpoint to fill.

        Raises:
            InputError: if the backbone, its levels or its weights do not exist or do not fit.
        """
        super().__init__()
        if config.kind == "hybrid" and load_weights:
            config = resolve(config)
        self.config = config
        weights = config.weights if load_weights else None
        build = {"cnn": _cnn, "vit": _vit, "hybrid": _hybrid}[config.kind]
        self.trunk, channels, self.strides = build(config, weights)
        if config.stride_in_conv1 and not strides_first(self.trunk):
            raise InputError(f"stride_in_conv1: backbone {config.backbone} has no bottleneck blocks with stride 2")
        self.multiple = max(STRIDE, *self.strides)
        cfg = self.trunk.pretrained_cfg if hasattr(self.trunk, "pretrained_cfg") else self.trunk.default_cfg
        self.register_buffer("mean", torch.tensor(cfg["mean"]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(cfg["std"]).view(1, 3, 1, 1))

        self.stem = _stem(config) if config.kind == "vit" else None
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), _norm(config.groups, width), nn.ELU())
            for inputs, width in zip(channels, config.widths, strict=True)
        )
        joined = sum(config.widths) + (2 * config.stem_width if self.stem is not None else 0)
        self.join = nn.Conv2d(joined, config.dim, 1, bias=False)
        for level in self.reduce:
            nn.init.kaiming_normal_(level[0].weight)
        nn.init.xavier_uniform_(self.join.weight, gain=4)  # as in AffinityNet: distances of about 1 at the start
        self.train()
        self._freeze()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1], any size -> (B, D, ceil(H / 8), ceil(W / 8)), float32 outside autocast.

        The border is padded by repetition to a multiple of the trunk's largest stride, and the features are
        cropped again.
        """
        height, width = images.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        inputs = F.pad((images - self.mean) / self.std, padding, mode="replicate")
        size = (inputs.shape[-2] // STRIDE, inputs.shape[-1] // STRIDE)
        maps = [
            _to_stride(level(feature), stride, size)
            for level, feature, stride in zip(self.reduce, self._levels(inputs), self.strides, strict=True)
        ]
        if self.stem is not None:
            maps.append(self.stem(inputs))
        features = F.elu(self.join(torch.cat(maps, dim=1))) / self.config.dim
        return features[..., : -(-height // STRIDE), : -(-width // STRIDE)]

    def train(self, mode: bool = True) -> AffinityNetwork:
        """Training mode for all but the trunk, whose batch norm keeps its statistics, as in AffinityNet."""
        super().train(mode)
        self.trunk.eval()
        return self

    def trunk_parameters(self) -> list[nn.Parameter]:
        """Parameters of the trunk that are trained."""
        return [parameter for parameter in self.trunk.parameters() if parameter.requires_grad]

    def head_parameters(self) -> list[nn.Parameter]:
        """Parameters that start at random."""
        modules = [self.reduce, self.join] + ([self.stem] if self.stem is not None else [])
        return [parameter for module in modules for parameter in module.parameters()]

    def _levels(self, inputs: Tensor) -> list[Tensor]:
        if self.config.kind != "vit":
            return self.trunk(inputs)
        indices = list(self.config.levels)
        return self.trunk.forward_intermediates(inputs, indices=indices, intermediates_only=True, output_fmt="NCHW")

    def _freeze(self) -> None:
        for module in self.trunk.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm):
                module.requires_grad_(False)
        if not self.config.frozen_levels:
            return
        with torch.enable_grad():
            levels = self._levels(self.mean.new_zeros(1, 3, 2 * self.multiple, 2 * self.multiple))
            freeze_below(levels[: self.config.frozen_levels], self.trunk_parameters())


def _cnn(config: NetworkConfig, weights: str | None) -> tuple[nn.Module, list[int], list[int]]:
    try:
        trunk = create_backbone(config.backbone, weights, features_only=True, out_indices=config.levels)
    except (RuntimeError, AssertionError, AttributeError, IndexError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"backbone {config.backbone}: no features at levels {config.levels} ({reason})") from None
    info = trunk.feature_info
    last = info.module_name()[-1]
    if isinstance(getattr(trunk, "blocks", None), nn.Sequential) and last.startswith("blocks."):
        del trunk.blocks[int(last.split(".")[1]) + 1 :]  # EfficientNet-like models keep and run all their blocks
    return trunk, info.channels(), info.reduction()


def _hybrid(config: NetworkConfig, weights: str | None) -> tuple[nn.Module, list[int], list[int]]:
    if is_hybrid(config.backbone):
        trunk = Stages(config.backbone, config.levels)
        built = trunk, trunk.channels, trunk.strides
    else:
        built = _cnn(config, None)
    if weights is not None:
        load_trunk(built[0], config)
    return built


def _vit(config: NetworkConfig, weights: str | None) -> tuple[nn.Module, list[int], list[int]]:
    try:
        trunk = create_backbone(config.backbone, weights, num_classes=0, dynamic_img_size=True)
    except TypeError:
        raise InputError(f"backbone {config.backbone}: expected a ViT of timm; use kind cnn for other models") from None
    if config.levels[-1] >= len(trunk.blocks):
        raise InputError(f"levels {config.levels}: expected blocks of {config.backbone}, 0 to {len(trunk.blocks) - 1}")
    trunk.prune_intermediate_layers(list(config.levels), prune_norm=False, prune_head=True)
    patch = trunk.patch_embed.patch_size
    if patch[0] != patch[1] or patch[0] % STRIDE:
        raise InputError(f"backbone {config.backbone}: expected square patches, a multiple of {STRIDE}, got {patch}")
    return trunk, [trunk.embed_dim] * len(config.levels), [patch[0]] * len(config.levels)


def _stem(config: NetworkConfig) -> nn.Sequential:
    """Three convolutions of stride 2: the detail that patches of 16 pixels have lost."""
    layers: list[nn.Module] = []
    for inputs, width in ((3, 1), (1, 2), (2, 2)):
        channels = 3 if not layers else inputs * config.stem_width
        layers.append(nn.Conv2d(channels, width * config.stem_width, 3, stride=2, padding=1, bias=False))
        layers += [_norm(config.groups, width * config.stem_width), nn.ELU()]
    return nn.Sequential(*layers)


def _norm(groups: int, channels: int) -> nn.Module:
    return nn.GroupNorm(groups, channels) if groups else nn.Identity()


def _to_stride(feature: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    if stride < STRIDE:
        return F.avg_pool2d(feature, STRIDE // stride)
    return feature if stride == STRIDE else F.interpolate(feature, size, mode="bilinear", align_corners=False)

"""How the output of a module lies over the image: as maps, or as the tokens of a transformer's patches."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from wsss.errors import InputError


class Layout:
    """Modules of a network, and how the output of each becomes maps (B, D, h, w).

    Tokens (B, N, D) have no height and width of their own. Those of timm's transformers lie on the grid of the patch
    embedding, in rows, behind the prefix tokens (class token, registers), which lie nowhere and are left out.
    """

    def __init__(self, network: nn.Module) -> None:
        """Watches, by hooks on `network`, what sizes of images its patch embeddings are given."""
        self._trunks = {name: part for name, part in network.named_modules() if _embeds_patches(part)}
        self._grids: dict[str, tuple[int, int]] = {}
        self._images: tuple[int, int] | None = None
        network.register_forward_pre_hook(self._enter)
        for name, trunk in self._trunks.items():
            trunk.patch_embed.register_forward_pre_hook(partial(self._see, name))

    @property
    def blocks(self) -> list[str]:
        """Names of the blocks of the transformers."""
        found = []
        for name, trunk in self._trunks.items():
            parts = getattr(trunk, "blocks", None)
            if isinstance(parts, nn.Sequential | nn.ModuleList):
                found += [f"{name}.blocks.{index}".lstrip(".") for index in range(len(parts))]
        return found

    def maps(self, name: str, value: Any) -> Tensor:
        """The output of a module as maps, a view of it. InputError, naming the module, if it is none."""
        if not isinstance(value, Tensor):
            raise InputError(f"layer {name!r}: gives a {type(value).__name__}; name a module in it")
        trunk = next((one for one in reversed(self._trunks) if _within(name, one)), None)
        grid = self._grids.get(trunk) if trunk is not None else None
        if grid is not None:
            found = _on_grid(value, grid, getattr(self._trunks[trunk], "num_prefix_tokens", 0))
            if found is not None:
                return found
        stem = f"{trunk}.patch_embed.".lstrip(".")
        last = value.ndim == 4 and self._images is not None and _channels_last(value, self._images)
        several = value.ndim == 4 and value.shape[2] * value.shape[3] > 1
        if several and not last and (grid is None or name.startswith(stem)):
            return value
        shape = tuple(value.shape[1:])
        on = f" or one token for each of {grid[0]} x {grid[1]} patches" if grid else ""
        unknown = "; the grid of tokens is known of timm's transformers alone" if value.ndim == 3 and not grid else ""
        raise InputError(f"layer {name!r}: expected maps (channels, height, width){on}, got {shape}{unknown}")

    def _enter(self, network: nn.Module, given: tuple[Any, ...]) -> None:
        if given and isinstance(given[0], Tensor) and given[0].ndim == 4:
            self._images = given[0].shape[2], given[0].shape[3]

    def _see(self, name: str, embed: nn.Module, given: tuple[Tensor, ...]) -> None:
        height, width = embed.dynamic_feat_size(tuple(given[0].shape[2:]))
        self._grids[name] = int(height), int(width)


def _embeds_patches(module: nn.Module) -> bool:
    embed = getattr(module, "patch_embed", None)
    return isinstance(embed, nn.Module) and hasattr(embed, "dynamic_feat_size")


def _channels_last(value: Tensor, images: tuple[int, int]) -> bool:
    """Whether the second and third dimension have the proportions of the images, and the last two do not."""
    wide = images[1] / images[0]
    first, last = (2 / 3 < right / (left * wide) < 3 / 2 for left, right in (value.shape[1:3], value.shape[2:]))
    return first and not last


def _within(name: str, trunk: str) -> bool:
    return not trunk or name.startswith(f"{trunk}.")


def _on_grid(value: Tensor, grid: tuple[int, int], prefix: int) -> Tensor | None:
    """Maps of a transformer's tokens, of maps, or of maps whose channels come last; None if it is of another grid."""
    patches = grid[0] * grid[1]
    if value.ndim == 3 and value.shape[1] in (patches, patches + prefix):
        return value[:, value.shape[1] - patches :].transpose(1, 2).unflatten(2, grid)
    if value.ndim == 4 and tuple(value.shape[2:]) == grid:
        return value
    if value.ndim == 4 and tuple(value.shape[1:3]) == grid:
        return value.permute(0, 3, 1, 2)
    return None

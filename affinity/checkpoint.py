"""The affinity network as one safetensors file that says how to build it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from affinity.network import AffinityNetwork
from affinity.settings import NetworkConfig
from wsss.errors import InputError
from wsss.settings import validation_line
from wsss.weights import read_checkpoint, widened, write_checkpoint

FORMAT = "relseg affinity network 1"


def save_affinity_network(
    path: Path,
    network: AffinityNetwork,
    *,
    dtype: Literal["float16", "float32"] = "float16",
    info: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint, atomically.

    float16 halves the weights of convolutions and linear layers; vectors (normalisation statistics, biases) stay
    float32. `info` (JSON) is kept in the metadata: how the network was trained.
    """
    state = {}
    for key, tensor in network.state_dict().items():
        half = dtype == "float16" and tensor.is_floating_point() and tensor.ndim >= 2
        state[key] = tensor.detach().cpu().to(torch.float16 if half else tensor.dtype).contiguous()
    config = network.config.model_dump(mode="json")
    if config["weights"] is not None:  # where the first weights came from, without the folders of this machine
        config["weights"] = Path(config["weights"]).name
    write_checkpoint(path, state, {"format": FORMAT, "config": config, "info": info or {}})


def load_affinity_network(path: Path, device: str | torch.device = "cpu") -> AffinityNetwork:
    """The network of a checkpoint, in float32 and evaluation mode, on `device`.

    Raises InputError naming the file if it is missing, no safetensors file, a checkpoint of something else, damaged,
    or has values that are not finite.
    """
    path = Path(path)
    description, state = read_checkpoint(path, "affinity network", "affinity train")
    content = description or {}
    if content.get("format") != FORMAT:
        found = content.get("format") or content.get("kind") or "none of this toolkit's"
        raise InputError(
            f"affinity network {path}: a checkpoint of another model ({found}); `affinity train` makes the right one"
        )
    try:
        network = AffinityNetwork(NetworkConfig.model_validate(content["config"]), load_weights=False)
        network.load_state_dict(widened(state))
    except ValidationError as error:
        raise InputError(f"affinity network {path}: {validation_line(error)}") from None
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"affinity network {path}: does not fit its own configuration ({str(error).splitlines()[0]})"
        ) from None
    return network.to(device).eval()

"""The command ``vitseg seeds``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vitseg.checkpoints import find_checkpoint
from vitseg.settings import SeedConfig
from wsss.console import Flat, together
from wsss.extensions import source_file
from wsss.options import Data, Device, Root, Runs, Shard, check_positive, suggest
from wsss.processes import take_shard
from wsss.progress import note
from wsss.provenance import command_line

if TYPE_CHECKING:
    from wsss.data import Sample
    from wsss.maps import SeedCounts


@together
def seeds(
    *,
    classifier: str,
    data: Data,
    split: str,
    name: str | None = None,
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    batch_size: int | None = None,
    shard: Shard = "1/1",
    cfg: Annotated[SeedConfig, Flat] = SeedConfig(),
) -> None:
    """Make seeds: soft maps of the classes each image is labelled with.

    Writes seeds/IMAGE.npz into the run, at the method's own grid. Goes on where it was stopped.

    Parameters
    ----------
    classifier
        Checkpoint (.safetensors), or the name of a run that holds one.
    split
        Split to explain.
    name
        Name of the run; unless given, lrp_vit for transformer attribution, rollout_vit for rollout, and so on, of a
        Hybrid-ViT lrp_hybrid, rollout_hybrid, ...
    batch_size
        Maps made at once: memory and speed change with it. Unless given, 1 on a CPU, else 8.
    """
    from vitseg.methods import find_method
    from vitseg.models import load_classifier
    from vitseg.seeds import make_seeds, outputs_for, seed_name
    from wsss.data import load_dataset
    from wsss.maps import run_seeds, workload
    from wsss.store import config_of, file_hash
    from wsss.training import choose_device

    method = find_method(cfg.method)
    take_shard(shard)
    check_positive(batch_size=batch_size)
    dataset = load_dataset(data, split, root)
    path = find_checkpoint(classifier, runs)
    model = load_classifier(path)
    outputs = outputs_for(model, dataset)
    target = runs / (name or seed_name(cfg.method, model)) / "seeds"
    begun = config_of(target)
    cfg = cfg.as_begun(begun)
    where = choose_device(device, cfg.dtype)

    def make(samples: list[Sample], folder: Path) -> SeedCounts:
        if samples:
            faster = "" if begun or where != "cpu" else " (`precision` float32: about half the time, less exact)"
            double = f", in double precision{faster}" if cfg.dtype == "float64" else ""
            note(f"seeds of {workload(len(samples), cfg.sizes, cfg.flip)}{double}")
        return make_seeds(model, samples, outputs, folder, cfg, device=where, batch_size=batch_size)

    run_seeds(
        dataset,
        target,
        make,
        config=cfg.identity,
        inputs={"classifier": file_hash(path), "data": dataset.name},
        sources={"classifier": path},
        code=source_file(method.compute),
        command=command_line("vitseg"),
    )
    suggest("affinity", "labels", "--seeds", target.parent.name, data=data, split=split, root=root, runs=runs)

"""Trials of unrolled networks on training images that none of their trainings, nor their classifier's, has seen.

    python benchmarks/tied_trials.py --weights resnet50_v1.safetensors --runs runs/trials [--trials depths stride_32]

Of the images of ``train`` whose masks are outside the budget every other one is held out, with its labels: a classifier
is trained without them, every trial starts from it, and all figures are of these images. The training is that of a
table (``--table``); a trial is a network and what is otherwise in its training. Each is a run, so that a killed one
goes on, and one that is finished is only printed.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnnseg.history import read_history
from cnnseg.runs import train_run
from cnnseg.sampling import sample_masks
from cnnseg.scores import evaluate_checkpoint
from cnnseg.settings import LAST, STAGE, NetworkConfig
from cnnseg.table_settings import read_table
from wsss.data import Dataset, load_dataset

TIED = {"lr": 2e-5}
TRIALS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "depths": ({}, TIED),
    "stride_32": ({"strides": [32]}, TIED),
    "depths_mean": ({"readout": "mean"}, TIED),
    "depths_first": ({"stride_layers": "first", "smooth": True}, TIED),
    "depths_first_plus": ({"stride_layers": "first", "smooth": True, "rules": "epsilon_plus"}, TIED),
    "depths_constant": ({"features": "constant"}, TIED),
    "depths_learnt": ({"learn_weights": True}, TIED),
    "depths_plus": ({"rules": "epsilon_plus"}, TIED),
    "depths_fast": ({}, {}),
    "depths_classify": ({}, {**TIED, "classification_weight": 10}),
    "pixels": ({"kind": "unrolled_pixels"}, {}),
    "free": ({"kind": "free_convolutions"}, {}),
}


def held_out(train: Dataset, budget: int) -> tuple[Dataset, Dataset]:
    """(the images to train on, the images held out)."""
    kept = {sample.id for sample in sample_masks(train, budget)}
    out = {s.id for s in [s for s in train if s.mask_path is not None and s.id not in kept][::2]}
    parts = [tuple(s for s in train if (s.id in out) == wanted) for wanted in (False, True)]
    return replace(train, samples=parts[0]), replace(train, samples=parts[1], split="held out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", required=True, help="ImageNet weights of the table's architecture")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--table", default="cnnseg/table1_animals_cpu")
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=["depths", "stride_32"])
    parser.add_argument("--budget", type=int, default=30)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    _, table = read_table(options.table)
    architecture = table.rows[0].architecture
    train, dev = held_out(load_dataset(table.data, table.train_split, root=options.root), options.budget)
    how = {"runs": options.runs, "device": options.device}
    start = table.classifier_network(architecture).model_copy(update={"weights": options.weights})
    train_run(options.runs / "classifier", train, dev, start, table.pretraining_config(), **how)
    shown = [_evaluated("classifier", dev, table.size, **how)]
    for name in options.trials:
        network, training = TRIALS[name]
        net = NetworkConfig(**{"architecture": architecture, "classifier": "classifier", **network})
        changes = {"budget": options.budget, "snapshots": (), "evaluate_images": None}
        if options.steps is not None:
            changes |= {"steps": options.steps, "evaluate_every": options.steps}
        config = type(table.pretraining_config())(**{**table.training, **training, **changes})
        run = f"{name}_{options.budget}" + ("" if options.steps is None else f"_{options.steps}")
        train_run(options.runs / run, train, dev, net, config, **how)
        shown.append(_evaluated(run, dev, table.size, **how))
    print(f"\n{len(dev)} images held out, at size {table.size}\n{'':24s} {'mIoU':>6s} {'F1':>6s} {'mask loss':>10s}")
    for run, entry in zip(["classifier", *options.trials], shown, strict=True):
        miou, loss = entry["miou"], entry["loss"]
        print(f"{run:24s} {_figure(miou):>6s} {_figure(entry['macro_f1']):>6s} {_figure(loss, 3):>10s}")


def _evaluated(run: str, dev: Dataset, size: int | None, *, runs: Path, device: str) -> dict[str, Any]:
    path = runs / run / STAGE / LAST
    entry = evaluate_checkpoint(str(path), dev, runs=runs, size=size, keep_masks=False, device=device)
    return {**entry, "loss": read_history(path.parent)[-1].get("segmentation_loss")}


def _figure(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    main()

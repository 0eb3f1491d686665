"""Every command that takes --device, on a GPU: a smoke test on tiny networks. Skipped where there is none.

RELSEG_SMOKE_DEVICE=cpu runs the same on a CPU, which shows that the commands below are right.
"""

from __future__ import annotations

import importlib
import inspect
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_run import VAL, make_data, make_run

from wsss.console import run
from wsss.training import choose_device

DEVICE = os.environ.get("RELSEG_SMOKE_DEVICE", "cuda")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no GPU that PyTorch can use"),
]

DATA = "--data {place}/data/data.yaml --runs {place}/runs"
VIT = "--classifier vit"
CNN = "--classifier cnn"
SMALL = "--steps 2 --batch-size 2 --crop 64 --evaluate-every 2 --warmup 0"
COMMANDS = (
    # in an order in which each finds what it starts from
    f"vitseg train-classifier --train-split val --val-split val --name vit --architecture test_vit --weights none "
    f"--sizes 32 --epochs 1 --batch-size 2 {DATA}",
    f"vitseg evaluate-classifier {VIT} --split val --size 32 {DATA}",
    f"vitseg seeds {VIT} --split val --name seeds --sizes 32 {DATA}",
    f"vitseg seeds {VIT} --split val --name wide --sizes 32 --precision float64 {DATA}",
    f"vitseg explain {{photographs}} {VIT} --sizes 32 --out {{place}}/vit --runs {{place}}/runs",
    f"vitseg perturbation-test {VIT} --split val --methods rollout lrp {DATA}",
    f"vitseg segmentation-test {VIT} --split val --methods rollout --precision float64 {DATA}",
    f"cnnseg train-classifier --train-split val --val-split val --name cnn --architecture test_resnet --weights none "
    f"{SMALL} {DATA}",
    f"cnnseg explain {{photographs}} {CNN} --out {{place}}/cnn --runs {{place}}/runs",
    f"cnnseg seeds --network cnn --split val --name cnn_seeds --sizes 32 {DATA}",
    f"cnnseg perturbation-test {CNN} --split val --methods gradcam lrp --size 64 {DATA}",
    f"cnnseg segmentation-test {CNN} --split val --methods cam --size 64 {DATA}",
    f"cnnseg train-unrolled --train-split val --val-split val --name unrolled {CNN} "
    f"--architecture test_resnet {SMALL} --budget 4 {DATA}",
    f"cnnseg evaluate --network unrolled --split val --size 64 --workers 1 {DATA}",
    f"cnnseg train-segmentation --masks true --split val --val-split val --name net --decoder fpn "
    f"--encoder mobilenetv3_small_050 --weights none {SMALL} --precision bfloat16 {DATA}",
    f"cnnseg pseudo-masks --network net --split val --name round {DATA}",
    "cnnseg segment {photographs} --network net --out {place}/segmented --runs {place}/runs",
    "cnnseg explain-segmentation {photographs} --network net --out {place}/why --runs {place}/runs",
    f"cnnseg region-test --network net --split val --size 64 --least 0.001 {DATA}",
    "cnnseg run-table {place}/table.yaml --runs {place}/table",
    "affinity train --config {place}/affinity.yaml --seeds given --split val " + DATA,
    "affinity refine --seeds given --into refined --split val --workers 1 " + DATA,
)
TABLE = """
title: smoke
data: {place}/data/data.yaml
train_split: val
val_split: val
budgets: [4]
seeds: [0]
weights: {{test_resnet: none}}
rows: [{{label: unrolled, kind: unrolled, architecture: test_resnet}}]
training: {{steps: 2, batch_size: 2, crop: 64, evaluate_every: 2, warmup: 0}}
pretraining: {{steps: 2, batch_size: 2, crop: 64, evaluate_every: 2, warmup: 0}}
"""
AFFINITY = """
network: {backbone: test_resnet, weights: null, levels: [1, 2], widths: [8, 8], dim: 16, groups: 4}
augment: {crop: 48}
epochs: 1
batch_size: 2
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, photographs, a run with seeds and labels, and the settings of what is too long for a line."""
    folder = tmp_path_factory.mktemp("place")
    data = make_data(folder / "data")
    make_run(folder / "runs/given", data)
    (folder / "photographs").mkdir()
    for image in VAL:
        small = Image.open(folder / f"data/images/{image}.png")
        small.resize((2 * small.width, 2 * small.height)).save(folder / f"photographs/{image}.png")
    (folder / "table.yaml").write_text(TABLE.format(place=folder))
    (folder / "affinity.yaml").write_text(AFFINITY)
    return folder


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: " ".join(line.split()[:2]))
def test_command(line: str, place: Path) -> None:
    photographs = " ".join(str(place / f"photographs/{image}.png") for image in VAL)
    program, *tokens = line.format(place=place, photographs=photographs).split()
    app = importlib.import_module(f"{program}.cli").app
    assert run(app, [*tokens, "--device", DEVICE]) == 0


def test_no_command_is_left_out() -> None:
    """But for the pages in a browser, which end when they are told to."""
    tried = {tuple(line.split()[:2]) for line in COMMANDS}
    for program in ("vitseg", "cnnseg", "affinity", "wsss"):
        app = importlib.import_module(f"{program}.cli").app
        for name in app:
            command = app[name].default_command
            if name != "explore" and command is not None and "device" in inspect.signature(command).parameters:
                assert (program, name) in tried


def test_the_device_is_chosen_by_itself() -> None:
    assert DEVICE == "cpu" or choose_device("auto") == "cuda"

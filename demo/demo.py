"""The toolkit in one go: from photographs with image-level labels to masks, on a CPU, without a download.

Every step is a public command, printed as one would type it; on data of one's own the same commands do the same. Only
the photographs (scikit-image and matplotlib bring them) and their hand-drawn outlines (masks.json) are prepared here.
The checkpoints were trained by this toolkit on animals and people of PASCAL VOC 2012, from image-level labels.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cyclopts import App
from PIL import Image, ImageDraw

from wsss.console import existing_file, run
from wsss.data import BACKGROUND, IGNORE
from wsss.data.config import load_config
from wsss.errors import InputError
from wsss.progress import note
from wsss.store import write_mask

HERE = Path(__file__).resolve().parent
DATA = HERE / "data.yaml"
OUTLINES = HERE / "masks.json"
BIN = Path(sys.executable).parent
SEGMENTATION = HERE / "checkpoints" / "segmentation.safetensors"

app = App(name="demo", help="The whole chain on three photographs.")


class Step(NamedTuple):
    """A command, and what it is for."""

    purpose: str
    command: str


@app.default
def demo(
    *,
    classifier: Path = HERE / "checkpoints" / "classifier.safetensors",
    affinity: Path = HERE / "checkpoints" / "affinity.safetensors",
    segmentation: Path | None = SEGMENTATION if SEGMENTATION.is_file() else None,
    out: Path = HERE.parent / "demo_run",
) -> int:
    """Run the chain: seeds by two methods, masks, scores, and a page that shows them; then a photograph without labels.

    Parameters
    ----------
    classifier
        Checkpoint of a classifier that knows the classes of demo/data.yaml.
    affinity
        Checkpoint of an affinity network.
    segmentation
        Checkpoint of a segmentation network; without one, the last step is left out.
    out
        Folder for everything that is written; a second demo goes on with what is there.
    """
    existing_file(classifier, "--classifier")
    existing_file(affinity, "--affinity")
    note(f"# The commands are those of {shown(BIN)}; they want it on the PATH where you type them yourself.")
    write_photographs(out / "data")
    chain = steps(classifier, affinity, out)
    if segmentation is not None:
        existing_file(segmentation, "--segmentation")
        chain.append(last_step(segmentation, write_unseen(out / "new"), out))
    for number, step in enumerate(chain, start=1):
        note(f"\n# {number}. {step.purpose}\n$ {step.command}")
        status = call(step.command)
        if status:
            return status
    note(f"\nThe report, to be opened in a browser: {shown(out / 'report.html')}")
    return 0


def steps(classifier: Path, affinity: Path, out: Path) -> list[Step]:
    """The chain. `classifier` and `affinity` are the checkpoints, `out` gets the runs and the report."""
    data = f"--data {typed(DATA)} --root {typed(out / 'data')} --split all"
    runs = f"--runs {typed(out / 'runs')}"
    model = f"--classifier {typed(classifier)}"
    network = f"--network {typed(affinity)}"
    photographs = " ".join(typed(out / "data" / "images" / name) for name in ("chelsea.png", "astronaut.png"))
    return [
        Step(
            "Read the data as the commands below will: each image, its labels, its mask.",
            f"wsss data-check {data}",
        ),
        Step(
            "What does the classifier see? Overlays of the two most probable classes.",
            f"vitseg explain {photographs} {model} --top 2 --out {typed(out / 'explanations')}",
        ),
        Step(
            "Seeds: where in an image is the evidence for each of its labels? Relevance through the ViT.",
            f"vitseg seeds {model} {data} {runs} --method transformer_attribution --name lrp_vit",
        ),
        Step(
            "Seeds by another method: attention rollout, which is the same for every class.",
            f"vitseg seeds {model} {data} {runs} --method rollout --name rollout_vit",
        ),
        Step(
            "Confident labels, by dense CRF. `affinity train` learns from such; here a trained network is at hand.",
            f"affinity labels --seeds lrp_vit {data} {runs}",
        ),
        Step(
            "Masks: the seeds walk at random along the affinities that the network predicts.",
            f"affinity refine --seeds lrp_vit --crf {network} {data} {runs}",
        ),
        Step(
            "Masks from the other seeds: the affinity stage takes anybody's.",
            f"affinity refine --seeds rollout_vit --crf {network} {data} {runs}",
        ),
        Step("How good is each stage? Scores against the outlines.", f"wsss evaluate lrp_vit {data} {runs}"),
        Step("The scores of the other run.", f"wsss evaluate rollout_vit {data} {runs}"),
        Step(
            "Both runs side by side, stage by stage.",
            f"wsss compare lrp_vit rollout_vit {data} {runs} --out {typed(out / 'report.html')}",
        ),
    ]


def last_step(segmentation: Path, photograph: Path, out: Path) -> Step:
    """What all of it is for: a network that has learnt such masks, and a photograph that nobody has labelled."""
    return Step(
        "A network that has learnt masks of this chain needs no labels: a photograph that no stage has seen.",
        f"cnnseg segment {typed(photograph)} --network {typed(segmentation)} --out {typed(out / 'segmented')}",
    )


def call(command: str) -> int:
    """Run a command line of the toolkit, from the environment of this script. Returns its exit status."""
    name, *options = shlex.split(command)
    if not (BIN / name).is_file():
        raise InputError(f"{BIN / name}: no such command; `make env` installs the toolkit")
    sys.stdout.flush()
    return subprocess.run([BIN / name, *options], check=False).returncode


def write_photographs(folder: Path) -> None:
    """Write images/, masks/ and labels.csv: a data set of layout "folder", as configs/data/folder.yaml describes it."""
    from skimage import data

    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    rows = [("image", "classes")]
    for name, entry in json.loads(OUTLINES.read_text(encoding="utf-8"))["photographs"].items():
        photograph = Image.fromarray(getattr(data, name)())
        photograph.save(folder / "images" / f"{name}.png")
        write_mask(folder / "masks", name, draw_mask(entry["objects"], photograph.size))
        rows.append((f"{name}.png", ";".join(entry["classes"])))
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def write_unseen(folder: Path) -> Path:
    """A photograph of which neither labels nor outlines are given: a person, which matplotlib brings."""
    from matplotlib.cbook import get_sample_data

    path = folder / "grace_hopper.jpg"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.is_file():  # a second demo goes on: a file written anew would be segmented anew
        path.write_bytes(Path(get_sample_data("grace_hopper.jpg", asfileobj=False)).read_bytes())
    return path


def draw_mask(objects: list[dict[str, Any]], size: tuple[int, int]) -> np.ndarray:
    """Outlines as a mask, uint8 (H, W): class indices, 0 background, 255 ignored. `size` is (W, H)."""
    value = {name: index for index, name in enumerate(load_config(DATA).class_names(), start=1)} | {"ignore": IGNORE}
    mask = Image.new("L", size, BACKGROUND)
    for item in objects:
        ImageDraw.Draw(mask).polygon([(x, y) for x, y in item["polygon"]], fill=value[item["class"]])
    return np.array(mask)


def shown(path: Path) -> Path:
    """The path as one would type it: relative where it lies below the working folder."""
    path = Path(os.path.abspath(path))
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def typed(path: Path) -> str:
    """The path as a word of a command line."""
    return shlex.quote(str(shown(path)))


if __name__ == "__main__":
    sys.exit(run(app))

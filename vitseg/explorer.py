"""A vision transformer, as the explorer's page (`wsss.explorer`) asks it."""

from __future__ import annotations

import json

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitseg.explanation import explain
from vitseg.methods import METHODS, RULES, find_method
from vitseg.models import Classifier
from wsss.explanation import Explanation
from wsss.explorer.explained import Answer, Look, MethodChoice, Progress, Region, Setting
from wsss.explorer.watching import Watcher
from wsss.maps import input_size

FIRST = "transformer_attribution"


class ExplainedClassifier:
    """See `wsss.explorer.explained.ExplainedModel`. ``options``: those of the command line that name the classifier."""

    segments = False
    scores: tuple[str, ...] = ("logit",)
    rules = tuple(RULES)

    def __init__(self, classifier: Classifier, title: str, options: dict[str, str], *, device: str = "cpu") -> None:
        self.title, self.class_names = title, classifier.class_names
        self.methods = tuple(
            MethodChoice(name, METHODS[name].source, takes_rules=METHODS[name].relevance)
            for name in (FIRST, *(name for name in METHODS if name != FIRST))
        )
        self._classifier, self._options, self._device = classifier, options, device
        self._model = classifier.model.to(device).eval()
        self._side = max(classifier.model.patch_embed.img_size)
        self._watcher = Watcher()

    def look(self, photograph: np.ndarray) -> Look:
        """One forward pass at the size that the ViT was made for, in the photograph's proportions."""
        image = Image.fromarray(photograph)
        size = input_size(image, self._side, self._model.patch_embed.feat_ratio(as_scalar=False))
        inputs = self._classifier.prepare(image, size)[None].to(self._device)
        with torch.inference_mode():
            logits = self._model(inputs)[0].float().cpu()
        shares = logits.softmax(0) if "architecture" in self._options else logits.sigmoid()
        return Look(photograph, tuple(shares.tolist()), None, (), inputs)

    def explain(self, look: Look, setting: Setting, region: Region | None, progress: Progress) -> Answer:
        """The class score, explained."""
        target = int(np.argmax(look.shares)) if setting.target is None else setting.target
        inputs: Tensor = look.inner
        rules = {"rules": setting.rules} if setting.rules else {}

        def compute() -> Explanation:
            return explain(self._model, inputs, target, setting.method, **rules)

        found = self._watcher.run((setting.method, setting.rules, inputs.shape), compute, progress)
        heat = found.maps[0].float().cpu().numpy()
        return Answer(heat, target, float(found.logits[0, target]), bool(heat.min() < 0))

    def written(self, setting: Setting, region: Region | None, target: int, name: str, digest: str) -> str:
        """The options of ``vitseg explain PHOTOGRAPH --config FILE``, which scales the map to [0, 1]."""
        method = find_method(setting.method)
        options: dict[str, object] = {
            **self._options,
            "classes": [self.class_names[target]],
            "method": setting.method,
            "preset": "plain",
            "sizes": [self._side],
        }
        if method.relevance:
            options["rules"] = setting.rules or self.rules[0]
            options["precision"] = "float32"  # as here; the command's own is double for the exact rules
        return json.dumps(options, indent=2) + "\n"

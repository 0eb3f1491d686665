"""Dense CRF on the scores of one image.

Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011,
with the settings of AffinityNet's own code. The pairwise terms depend on the image alone: one `DenseCRF` serves
any number of score maps.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from wsss.console import Config


class CRFConfig(Config):
    """Settings of the dense CRF; the defaults are those of AffinityNet's `crf_inference`."""

    iterations: int = Field(10, ge=1)
    """mean-field iterations"""
    smooth_sigma: float = Field(3, gt=0)
    """reach of the smoothness term, in pixels"""
    smooth_weight: float = Field(3, ge=0)
    """weight of the smoothness term"""
    colour_sigma_xy: float = Field(80, gt=0)
    """reach of the appearance term, in pixels"""
    colour_sigma_rgb: float = Field(13, gt=0)
    """reach of the appearance term, in grey levels"""
    colour_weight: float = Field(10, ge=0)
    """weight of the appearance term"""
    clip: float = Field(1e-5, gt=0, lt=1)
    """smallest probability that the unary term knows; bounds how sure a score can be"""


class DenseCRF:
    """The pairwise terms of one image, ready for the scores of a fixed number of labels.

    Building them costs about as much as five iterations of inference, so the two alphas of the affinity labels
    share one object. The object is not safe for two threads at once.
    """

    def __init__(self, image: np.ndarray, labels: int, config: CRFConfig = CRFConfig()) -> None:
        """
        Parameters
        ----------
        image
            (H, W, 3) uint8, RGB.
        labels
            Number of labels, background included, >= 1.

        Raises
        ------
        ValueError
            On another shape or dtype.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(f"image is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
        if labels < 1:
            raise ValueError(f"labels {labels}: at least one is needed")
        self._shape = (labels, *image.shape[:2])
        self._config = config
        self._crf = None
        if labels == 1:  # nothing to decide, and the library need not be asked
            return
        from pydensecrf.densecrf import DenseCRF2D

        self._crf = DenseCRF2D(image.shape[1], image.shape[0], labels)
        if config.smooth_weight:
            self._crf.addPairwiseGaussian(sxy=config.smooth_sigma, compat=config.smooth_weight)
        if config.colour_weight:
            self._crf.addPairwiseBilateral(
                sxy=config.colour_sigma_xy,
                srgb=config.colour_sigma_rgb,
                rgbim=np.array(image, order="C"),  # the library wants contiguous, writable memory
                compat=config.colour_weight,
            )

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Label probabilities after mean-field inference.

        Parameters
        ----------
        scores
            (L, H, W) in [0, 1], larger is likelier. They need not sum to 1: a common factor at a pixel changes
            nothing but for the clipping at `config.clip`.

        Returns
        -------
        (L, H, W) float32, sums to 1 over L.

        Raises
        ------
        ValueError
            If the shape is not that of the image and the number of labels, or a score is not finite.
        """
        if scores.shape != self._shape:
            raise ValueError(f"scores have shape {scores.shape}, expected {self._shape}")
        if not np.isfinite(scores).all():
            raise ValueError("scores are not finite")
        if self._crf is None:
            return np.ones(self._shape, np.float32)
        unary = -np.log(np.clip(scores, self._config.clip, 1)).reshape(len(scores), -1)
        self._crf.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
        return np.array(self._crf.inference(self._config.iterations), np.float32).reshape(self._shape)

"""Dense CRF on the scores of one image.

Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011,
with the settings of AffinityNet's own code. The pairwise terms depend on the image alone: one `DenseCRF` serves
any number of score maps. It gives what their code gives (pydensecrf), to the rounding of single precision.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch
from torch import Tensor

from affinity.lattice import PermutohedralLattice
from affinity.settings import CRFConfig


class DenseCRF:
    """The pairwise terms of one image, ready for scores of any number of labels.

    Building them costs about as much as ten iterations of inference, so the two alphas of the affinity labels share
    one object. Kernels are normalised on both sides, and labels compete as in a Potts model (section 2 of the paper).
    """

    def __init__(self, image: np.ndarray, config: CRFConfig = CRFConfig(), *, device: str = "cpu") -> None:
        """
        Args:
            image: (H, W, 3) uint8, RGB.
            device: where it is computed: "cpu", "cuda", ...

        Raises:
            ValueError: on another shape or dtype.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(f"image: expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
        self._size, self._config, self._device = image.shape[:2], config, device
        colours = torch.from_numpy(np.array(image)).to(device).reshape(-1, 3).float()
        rows, columns = (torch.arange(side, device=device, dtype=torch.float32) for side in self._size)
        places = torch.cartesian_prod(rows, columns).flip(1)
        self._terms: list[tuple[float, PermutohedralLattice]] = []
        if config.smooth_weight:
            self._terms.append((config.smooth_weight, PermutohedralLattice(places / config.smooth_sigma)))
        if config.colour_weight:
            features = torch.cat([places / config.colour_sigma_xy, colours / config.colour_sigma_rgb], 1)
            self._terms.append((config.colour_weight, PermutohedralLattice(features)))

    @torch.inference_mode()
    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Label probabilities after mean-field inference (algorithm 1 of the paper).

        Args:
            scores: (..., L, H, W) in [0, 1], larger is likelier; any number of score maps goes through at once. They
                need not sum to 1: a common factor at a pixel changes nothing but for the clipping at `config.clip`.

        Returns:
            (..., L, H, W) float32, sums to 1 over L.

        Raises:
            ValueError: if the shape is not that of the image, or a score is not finite.
        """
        if scores.ndim < 3 or scores.shape[-2:] != self._size or 0 in scores.shape:
            raise ValueError(f"scores: expected (..., L, {self._size[0]}, {self._size[1]}), got {scores.shape}")
        if not np.isfinite(scores).all():
            raise ValueError("scores: expected finite values, got NaN or infinite ones")
        likely = np.log(np.clip(scores, self._config.clip, 1)).astype(np.float32)
        likely = torch.from_numpy(likely).to(self._device)
        labels, pixels = scores.shape[-3], scores.shape[-2] * scores.shape[-1]
        unary = likely.reshape(-1, labels, pixels).permute(2, 0, 1).contiguous()  # (pixels, score maps, labels)
        belief = _softmax(unary)
        for _ in range(self._config.iterations):
            energy = unary.clone()
            for weight, lattice in self._terms:
                energy += lattice(belief.flatten(1)).view_as(unary).mul_(weight)
            belief = _softmax(energy)
        return belief.permute(1, 2, 0).reshape(scores.shape).cpu().numpy()


def _softmax(energy: Tensor) -> Tensor:
    """Over the last dimension; for two or three labels many times as fast as torch's own on a CPU."""
    likely = (energy - reduce(torch.maximum, energy.unbind(-1))[..., None]).exp_()
    return likely / reduce(torch.add, likely.unbind(-1))[..., None]

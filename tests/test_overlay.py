"""One map as a picture: what it is given as makes no difference, signs and sizes are right, bad input is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import cnnseg
import vitseg
from wsss.errors import InputError
from wsss.overlay import heat_overlay, overlay


def photograph() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 18, 3), dtype=np.uint8)


def test_it_is_the_heat_overlay_of_the_enlarged_map() -> None:
    image, heat = photograph(), np.array([[0.0, 3.0], [1.0, 2.0]], np.float32)
    full = torch.nn.functional.interpolate(torch.from_numpy(heat)[None, None], (12, 18), mode="bilinear")[0, 0] / 3
    found = np.asarray(overlay(image, heat), int)
    assert np.abs(found - heat_overlay(image, full.numpy().clip(0, 1))).max() <= 1  # rounding of another interpolation
    halved = np.asarray(overlay(image, heat, limits=(0, 6)), int)
    assert np.abs(halved - heat_overlay(image, full.numpy().clip(0, 1) / 2)).max() <= 1
    assert vitseg.overlay is cnnseg.overlay is overlay


def test_forms_of_image_and_map() -> None:
    image, heat = photograph(), np.random.default_rng(1).random((3, 4)).astype(np.float32)
    due = np.asarray(overlay(image, heat))
    floats = image.astype(np.float32) / 255
    for form in (Image.fromarray(image), floats, floats.transpose(2, 0, 1), torch.from_numpy(floats).permute(2, 0, 1)):
        np.testing.assert_array_equal(np.asarray(overlay(form, heat)), due)
    for form in (torch.from_numpy(heat), torch.from_numpy(heat).double().requires_grad_(), heat.tolist()):
        np.testing.assert_array_equal(np.asarray(overlay(image, form)), due)


def test_signs_are_blue_and_red() -> None:
    grey = np.full((4, 8, 3), 128, np.uint8)
    signed = np.tile(np.repeat(np.array([-1.0, 1.0], np.float32), 4), (4, 1))
    picture = np.asarray(overlay(grey, signed), int)
    assert (picture[:, :4, 2] > picture[:, :4, 0] + 50).all() and (picture[:, 4:, 0] > picture[:, 4:, 2] + 50).all()
    nothing = np.asarray(overlay(grey, np.zeros((2, 2)), signed=True))
    np.testing.assert_array_equal(nothing, grey)  # no relevance, no colour
    assert (np.asarray(overlay(grey, signed, signed=False)) != picture).any()


@pytest.mark.parametrize(
    ("image", "heat", "line"),
    [
        (photograph(), np.zeros((2, 3, 3)), r"map: expected one map \(h, w\), got \(2, 3, 3\)"),
        (photograph(), np.array([[0.0, np.nan]]), "map: has values that are not finite"),
        (np.zeros((4, 4)), np.zeros((2, 2)), r"image: expected \(H, W, 3\) or \(3, H, W\), got \(4, 4\)"),
        (np.full((3, 4, 5), -2.0), np.zeros((2, 2)), "image: expected uint8, or floats in"),
    ],
)
def test_bad_input(image: np.ndarray, heat: np.ndarray, line: str) -> None:
    with pytest.raises(InputError, match=line):
        overlay(image, heat)
    with pytest.raises(InputError, match="limits"):
        overlay(photograph(), np.zeros((2, 2)), limits=(1, 0))

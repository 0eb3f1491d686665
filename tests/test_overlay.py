"""One map as a picture: what it is given as makes no difference, signs and sizes are right, bad input is refused."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

import cnnseg
import vitseg
from wsss.colours import colours_of, scale_colours
from wsss.errors import InputError
from wsss.lettering import lines_of, title_strip
from wsss.overlay import heat_overlay, overlay
from wsss.photographs import on_one_scale
from wsss.sheet import GAP, sheet


def photograph() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 18, 3), dtype=np.uint8)


def test_it_is_the_heat_overlay_of_the_enlarged_map() -> None:
    image, heat = photograph(), np.array([[0.0, 3.0], [1.0, 2.0]], np.float32)
    full = torch.nn.functional.interpolate(torch.from_numpy(heat)[None, None], (12, 18), mode="bilinear")[0, 0] / 3
    found = np.asarray(overlay(image, heat), int)
    assert np.abs(found - heat_overlay(image, full.numpy().clip(0, 1))).max() <= 1  # rounding of another interpolation
    halved = np.asarray(overlay(image, heat, limits=(0, 6)), int)
    assert np.abs(halved - heat_overlay(image, full.numpy().clip(0, 1) / 2)).max() <= 1
    assert vitseg.overlay is cnnseg.overlay is overlay and vitseg.sheet is cnnseg.sheet is sheet


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


@pytest.mark.parametrize("signed", [False, True])
def test_the_photograph_stays_as_bright_where_there_is_no_relevance(signed: bool) -> None:
    image, heat = photograph(), np.zeros((12, 18), np.float32)
    heat[:, 9:] = 1
    drawn = np.asarray(overlay(image, heat, limits=(-1, 1) if signed else (0, 1), signed=signed))
    grey, seen = (np.asarray(Image.fromarray(one).convert("L"), int) for one in (image, drawn))
    assert np.abs(seen - grey)[:, :9].max() <= 2
    strong = scale_colours(signed)[-1].astype(int)
    assert np.abs(drawn[:, 9:].astype(int) - strong).max() <= 0.16 * 256  # as strong as the end of the scale


def test_colours_of_heat_become_stronger_with_it() -> None:
    for signed in (False, True):
        _, cover = colours_of(np.linspace(0.5 * signed, 1, 50, dtype=np.float32)[None], signed)
        assert cover[0, 0] == 0 and cover[0, -1] == 1 and (np.diff(cover[0]) > 0).all()
    lightness = cv2.cvtColor(scale_colours(False)[None], cv2.COLOR_RGB2LAB)[0].astype(float)
    chroma = np.hypot(lightness[:, 1] - 128, lightness[:, 2] - 128)
    assert chroma[-1] > chroma[128] > chroma[64] > chroma[0] + 5


def test_title_and_scale_stand_beside_the_picture() -> None:
    image, heat = photograph(), np.random.default_rng(1).random((3, 4)).astype(np.float32)
    bare = np.asarray(overlay(image, heat))
    for large in (1, 40):
        seen = np.repeat(np.repeat(image, large, 0), large, 1)
        drawn = np.asarray(overlay(seen, heat, title="cat\nlogit 7.0", colour_bar="relevance"))
        height, width = seen.shape[:2]
        assert drawn.shape[1] == max(240, width)
        left = (drawn.shape[1] - width) // 2
        plain = np.asarray(overlay(seen, heat))
        tops = [
            top
            for top in range(drawn.shape[0] - height)
            if np.array_equal(drawn[top : top + height, left : left + width], plain)
        ]
        assert len(tops) == 1
        above, below = drawn[: tops[0]], drawn[tops[0] + height :]
        assert (above.min(2) < 100).any() and (below.min(2) < 100).any()  # there are letters
        ramp = below.astype(int) - below.astype(int).min(2, keepdims=True)
        assert ramp.max() > 60  # and colours
    assert np.array_equal(bare, np.asarray(overlay(image, heat, title=None, colour_bar=False)))
    assert overlay(image, heat, title="").size == (18, 12)


def test_words_are_wrapped_and_shortened_to_their_width() -> None:
    font = ImageFont.load_default(14)
    long = "Egyptian cat, the cat of the pharaohs, sacred to Bastet and kept in granaries for the mice " * 3
    for width in (60, 200, 400):
        lines = lines_of(f"{long}\nlogit 7", 14, width)
        assert 2 <= len(lines) <= 3 and lines[-1] == "logit 7"
        assert all(font.getlength(line) <= width for line in lines) and lines[-2].endswith("…")
    assert lines_of("cat", 14, 200) == ["cat"]
    assert lines_of("two words", 14, round(font.getlength("two words")) - 1) == ["two", "words"]
    assert title_strip("\udcff.png", 200, 14).size[0] == 200  # a name that is no text


def test_very_long_words_are_shortened_at_once() -> None:
    begin = time.monotonic()
    assert overlay(np.zeros((40, 60, 3), np.uint8), np.eye(3), title="word " * 2000).width == 240
    assert time.monotonic() - begin < 10  # measuring each word's line anew took minutes


def test_sheet_has_all_maps_on_one_scale() -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 400, 3), dtype=np.uint8)
    maps = np.zeros((2, 2, 4), np.float32)
    maps[0], maps[1] = 4.0, 1.0
    maps[0, 0, 0] = maps[1, 1, 3] = 0
    drawn = np.asarray(sheet(image, torch.from_numpy(maps), ["cat", "dog"]))
    for limits, heat in (((0, 4), maps[0]), ((0, 4), maps[1])):
        assert _holds(drawn, np.asarray(overlay(image, heat, limits=limits)))
    assert _holds(drawn, image) and not _holds(drawn, np.asarray(overlay(image, maps[1])))
    weighted = np.asarray(sheet(image, maps, ["cat", "dog"], probabilities=[0.25, 0.5]))
    assert _holds(weighted, np.asarray(overlay(image, maps[0] / 4 * 0.25, limits=(0, 0.5))))
    assert _holds(weighted, np.asarray(overlay(image, maps[1] * 0.5, limits=(0, 0.5))))
    for count, columns in ((1, 2), (3, 4), (4, 3), (7, 4)):
        assert sheet(image, [maps[0]] * count, ["a"] * count).width == columns * (400 + GAP) + GAP
    signed = np.asarray(sheet(image, [maps[0], -maps[1]], ["cat", "dog"]))
    assert _holds(signed, np.asarray(overlay(image, maps[0], limits=(-4, 4), signed=True)))
    with pytest.raises(InputError, match="titles: expected one for each of the maps, at least one, got 1 of 2"):
        sheet(image, maps, ["cat"])
    with pytest.raises(InputError, match="titles: expected one for each"):
        sheet(image, maps[:0], [])
    with pytest.raises(InputError, match="probabilities: expected 2 numbers from 0 to 1"):
        sheet(image, maps, ["cat", "dog"], probabilities=[0.5, 1.5])


def _holds(whole: np.ndarray, part: np.ndarray) -> bool:
    """Whether a picture lies somewhere in another."""
    found = cv2.matchTemplate(whole, part, cv2.TM_SQDIFF)
    return bool(found.min() <= 1e-4 * float((part.astype(float) ** 2).sum()))


def test_scale_of_maps_without_a_common_unit() -> None:
    maps = np.stack([np.eye(3), np.eye(3)[::-1]]).astype(np.float32)
    alone = on_one_scale(maps[:1], [0.01])
    assert alone.bar.limits == (0, 1) and np.array_equal(alone.maps[0], maps[0])
    shares = on_one_scale(maps, [1, 1])
    assert shares.bar.limits == (0, 1) and np.array_equal(shares.maps, maps)
    both = on_one_scale(maps, [0.999, 0.001])
    assert both.bar.limits == (0, 0.999) and both.maps[1].max() == pytest.approx(0.001)
    assert on_one_scale(np.stack([maps[0], 3 * maps[1]]), None).bar.limits == (0, 3)
    assert on_one_scale(np.stack([maps[0], -3 * maps[1]]), None).bar.limits == (-3, 3)


@pytest.mark.parametrize(
    ("image", "heat", "line"),
    [
        (photograph(), np.zeros((2, 3, 3)), r"map: expected one map \(h, w\), got \(2, 3, 3\)"),
        (photograph(), np.array([[0.0, np.nan]]), "map: expected finite values"),
        (np.zeros((4, 4)), np.zeros((2, 2)), r"image: expected \(H, W, 3\) or \(3, H, W\), got \(4, 4\)"),
        (np.full((3, 4, 5), -2.0), np.zeros((2, 2)), "image: expected uint8, or floats in"),
    ],
)
def test_bad_input(image: np.ndarray, heat: np.ndarray, line: str) -> None:
    with pytest.raises(InputError, match=line):
        overlay(image, heat)
    with pytest.raises(InputError, match="limits"):
        overlay(photograph(), np.zeros((2, 2)), limits=(1, 0))

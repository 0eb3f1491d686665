"""wsss.report and wsss.overlay: the page stands alone, the three forms agree, the figures are those of metrics.json."""

from __future__ import annotations

import base64
import csv
import io
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from small_run import CLASSES, OWN, VAL, make_data, make_run, val

from wsss.data import load_dataset
from wsss.entries import MetricEntry, read_metrics, save_metrics
from wsss.errors import InputError
from wsss.evaluate import evaluate_run
from wsss.overlay import contour_overlay, fit_width, heat_overlay, label_picture, mask_overlay
from wsss.report import figure_rows, to_csv, write_report
from wsss.report.colours import CLASS_COLOURS, class_palette, with_names
from wsss.report.pictures import choose_images
from wsss.store import read_mask, voc_palette


@pytest.fixture
def two_runs(tmp_path: Path) -> tuple[list[Path], Path]:
    data = make_data(tmp_path / "data")
    runs = [tmp_path / "runs" / name for name in ("good", "bad")]
    for run, noise in zip(runs, (0.3, 0.8), strict=True):
        make_run(run, data, ["val", "own"], noise=noise)
        save_metrics(run, evaluate_run(run, val(data), command=f"wsss evaluate {run.name} --split val"))
    return runs, data


class Page(HTMLParser):
    """All tags, the images, and the cells of the tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self._cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data):
        self.text += data
        if self._cell is not None:
            self._cell.append(data)

    @property
    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def test_page_refers_to_nothing_outside_itself(two_runs, tmp_path):
    runs, data = two_runs
    files = write_report(runs, val(data), tmp_path / "report.html", command="wsss compare good bad")
    text = files.html.read_text()
    page = Page(text)
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]  # inline, and no other
    for tag, attributes in page.tags:
        for key in ("src", "href", "srcset", "poster", "data"):
            if key in attributes:
                assert tag == "img" and attributes[key].startswith("data:image/"), (tag, key)
    assert not re.search(r"url\(|@import|https?://", re.sub(r"data:image/[^\"]*", "", text))
    assert len(page.images) == len(VAL) * (2 + len(runs) * 3)
    for image in page.images:
        assert image["alt"]
        with Image.open(io.BytesIO(base64.b64decode(image["src"].split(",", 1)[1]))) as picture:
            picture.load()
            assert picture.size == (int(image["width"]), int(image["height"]))
            assert picture.width <= 320
    assert dict(page.tags)["html"] == {"lang": "en"}


def test_html_markdown_and_csv_say_the_same(two_runs, tmp_path):
    runs, data = two_runs
    files = write_report(runs, val(data), tmp_path / "out" / "page.html")
    assert (files.markdown.name, files.csv.name) == ("page.md", "page.csv")
    entries = {(run.name, e.stage, e.rule): e for run in runs for e in read_metrics(run)}
    rows = list(csv.DictReader(files.csv.open()))
    assert len(rows) == len(entries) == 12
    for row in rows:
        entry = entries[row["run"], row["stage"], row["rule"]]
        for name in ("miou", "pixel_accuracy", "coverage", "foreground_precision", "background_precision"):
            expected = getattr(entry, name)
            assert (float(row[name]) if row[name] else None) == (pytest.approx(expected) if expected else None)
        for name in ("background", *CLASSES):
            expected = entry.iou.get(name)
            assert (float(row[f"iou:{name}"]) if row[f"iou:{name}"] else None) == (expected and pytest.approx(expected))
        assert row["oracle"] == str(entry.oracle)
        assert row["command"] == entry.command
        assert row["protocol"] == entry.protocol
    tables = Page(files.html.read_text()).tables
    marked = [line for line in files.markdown.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("*", "") for cell in line.strip("|").split("|")] for line in marked]
    markdown = [row for row in cells if not set("".join(row)) <= set("-:")]
    run, shown = "", []
    for row in tables[0][1:]:
        if len(row) == 1:
            (run,) = row
        else:
            shown.append([run, *row])
    for (run, stage_and_rule, *numbers), markdown_row in zip(shown, markdown[1:13], strict=True):
        assert [run, stage_and_rule.replace("oracle ", "")] == [
            markdown_row[0],
            " ".join(markdown_row[1:3]).replace("oracle ", ""),
        ]
        assert numbers == markdown_row[3:-3]
    assert "of 4 images of split val, image-level labels given" in files.html.read_text()
    figures = {(row[0], row[1], row[2]): row for row in markdown[1:13]}
    assert float(figures["good", "masks", "as written"][3]) == round(entries["good", "masks", "masks"].miou, 1)
    assert tables[1][0] == ["", "good", "bad"]
    assert [row[0] for row in tables[1][2:]] == ["background", *CLASSES]


def entry(stage: str, rule: str, miou: float | None, **more) -> MetricEntry:
    known = {
        "data": "d",
        "split": "val",
        "labels_given": True,
        "images": 9,
        "command": "",
        "protocol": "",
        "source": "",
    }
    return MetricEntry(stage=stage, rule=rule, miou=miou, **(known | more))


def test_gain_is_over_the_stage_before_by_the_same_rule():
    run = [
        entry("seeds", "alpha 4", 40.0, headline=True),
        entry("seeds", "alpha 16", 45.0),
        entry("seeds", "oracle threshold 0.05", 50.0, oracle=True),
        entry("refined", "alpha 4", 44.0, headline=True),
        entry("refined", "oracle threshold 0.2", 53.0, oracle=True),
        entry("affinity_labels", "confident pixels", None, coverage=60.0, headline=True),
        entry("masks", "masks", 51.5, headline=True),
    ]
    rows = {(r.entry.stage, r.entry.rule): r for r in figure_rows({"run": run})}
    gains = {key: (row.gain, row.total_gain) for key, row in rows.items()}
    assert gains["seeds", "alpha 4"] == gains["seeds", "alpha 16"] == (None, None)
    assert gains["refined", "alpha 4"] == (4.0, 4.0)
    assert gains["refined", "oracle threshold 0.2"] == (3.0, 3.0)
    assert gains["masks", "masks"] == (7.5, 11.5)
    assert [key for key, row in rows.items() if "miou" in row.best] == [("masks", "masks")]  # 53.0 is an oracle's
    assert not rows["refined", "oracle threshold 0.2"].best
    assert "since seeds" not in to_csv([])
    assert next(csv.DictReader(io.StringIO(to_csv(list(rows.values())))))["total_gain"] == ""


def test_refined_seeds_are_a_stage_of_their_own(two_runs, tmp_path):
    runs, data = two_runs
    shutil.copytree(runs[1] / "seeds", runs[0] / "refined")  # other maps than the seeds
    save_metrics(runs[0], evaluate_run(runs[0], val(data)))
    text = write_report(runs[:1], val(data), tmp_path / "r.html").html.read_text()
    assert "seeds after the random walk" in text
    assert "since seeds" in text
    assert len(Page(text).images) == len(VAL) * (2 + 4)


def test_no_ground_truth_still_shows_pictures(two_runs, tmp_path):
    runs, data = two_runs
    files = write_report(runs, load_dataset(data, "own"), tmp_path / "own.html")
    page = Page(files.html.read_text())
    assert len(page.images) == len(OWN) * (1 + len(runs) * 3)
    assert page.text.lower().count("ground truth") == 1  # said once, not in every card
    assert not [tag for tag, attributes in page.tags if attributes.get("class") == "none"]
    assert "How these figures" not in page.text and "How these pictures were made" in page.text
    assert "Stage by stage" not in page.text
    assert not page.tables
    assert "No ground truth" in files.markdown.read_text()
    assert list(csv.DictReader(files.csv.open())) == []


def test_one_image_without_ground_truth_among_others_says_so(two_runs, tmp_path):
    runs, data = two_runs
    (data.parent / "masks" / "a.png").unlink()
    (runs[0] / "metrics.json").unlink()
    page = Page(write_report(runs[:1], val(data), tmp_path / "some.html", images=list(VAL)).html.read_text())
    assert page.text.count("no ground truth") == 1 and f"{len(VAL) - 1} of them with ground truth" in page.text
    assert "No figures" in page.text


def test_one_run_and_a_missing_stage(two_runs, tmp_path):
    runs, data = two_runs
    (runs[0] / "masks" / "a.png").unlink()
    page = Page(write_report(runs[:1], val(data), tmp_path / "one.html", images=["b", "a"]).html.read_text())
    assert len(page.images) == 2 * (2 + 3) - 1
    absent = [attributes for tag, attributes in page.tags if tag == "div" and attributes.get("role") == "img"]
    assert [attributes["aria-label"] for attributes in absent] == ["good has no masks of image a"]
    assert not [tag for tag, attributes in page.tags if attributes.get("class") == "run"]
    assert ["good"] not in page.tables[0]  # the name of the only run stands in the title alone


def test_run_that_was_not_evaluated_is_said(two_runs, tmp_path, capsys):
    runs, data = two_runs
    (runs[1] / "metrics.json").unlink()
    page = Page(write_report(runs, val(data), tmp_path / "r.html").html.read_text())
    assert "bad has no figures for split val" in page.text
    assert "bad has no figures" in capsys.readouterr().err
    assert len(page.images) == len(VAL) * (2 + 2 * 3)


def test_figures_older_than_the_files_are_said(two_runs, tmp_path, capsys):
    runs, data = two_runs
    manifest = runs[0] / "masks" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 5'))
    page = Page(write_report(runs, val(data), tmp_path / "r.html").html.read_text())
    assert "good: the masks were made anew" in page.text
    assert "made anew" in capsys.readouterr().err


def test_images_are_chosen_from_worst_to_best(two_runs):
    runs, data = two_runs
    dataset = val(data)

    def iou(image_id: str) -> float:
        values = []
        truth = dataset.load_mask(next(s for s in dataset if s.id == image_id))
        for run in runs:
            mask = read_mask(run / "masks", image_id)
            kept = truth != 255
            parts = [((mask == c) & (truth == c) & kept, ((mask == c) | (truth == c)) & kept) for c in range(3)]
            values.append(np.mean([a.sum() / b.sum() for a, b in parts if b.any()]))
        return float(np.mean(values))

    ranked = sorted(VAL, key=iou)
    named = {run.name: run for run in runs}
    assert [s.id for s in choose_images(dataset, named, count=2).samples] == [ranked[0], ranked[-1]]
    assert [s.id for s in choose_images(dataset, named, count=9).samples] == ranked
    assert [s.id for s in choose_images(dataset, named, ids=["c", "a"]).samples] == ["c", "a"]
    with pytest.raises(InputError, match="`images` zebra"):
        choose_images(dataset, named, ids=["zebra"])


def test_names_cannot_inject_markup(tmp_path):
    data = make_data(tmp_path / "data", classes=("<b>cat", "a|b & c"))
    run = tmp_path / "run<i>"
    make_run(run, data)
    save_metrics(run, evaluate_run(run, val(data)))
    files = write_report([run], val(data), tmp_path / "r.html")
    page = Page(files.html.read_text())
    assert not {"b", "i"} & {tag for tag, _ in page.tags}
    assert "<b>cat" in page.text
    assert "a\\|b & c" in files.markdown.read_text()


def test_bad_requests(two_runs, tmp_path):
    runs, data = two_runs
    with pytest.raises(InputError, match=r"`out` .*\.html"):
        write_report(runs, val(data), tmp_path / "report.pdf")
    with pytest.raises(InputError, match="`pictures` 0"):
        write_report(runs, val(data), tmp_path / "r.html", pictures=0)
    other = make_data(tmp_path / "other", classes=("horse", "cow"))
    with pytest.raises(InputError, match="other classes"):
        write_report(runs, val(other), tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no files of split val"):
        write_report([empty], val(data), tmp_path / "r.html")


def picture(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_heat_overlay():
    image, heat = picture(), np.linspace(0, 1, 600).reshape(20, 30)
    bare = heat_overlay(image, heat, 0)
    grey = np.asarray(Image.fromarray(image).convert("L"), int)
    assert np.abs(np.asarray(Image.fromarray(bare).convert("L"), int) - grey).max() <= 1  # as bright as it was
    assert np.ptp(bare, 2).mean() < 0.5 * np.ptp(image, 2).mean()  # and paler
    full = heat_overlay(image, heat, 1)
    np.testing.assert_array_equal(full[0, 0], bare[0, 0])  # no relevance, no colour
    assert np.abs(full[-1, -1].astype(int) - (252, 255, 164)).max() <= 2  # the end of inferno, red first
    half = heat_overlay(image, heat, 0.5)
    np.testing.assert_allclose(half, (bare.astype(float) + full) / 2, atol=1.01)
    for wrong in (heat * 2, heat - 0.5, np.where(heat > 0.5, np.nan, 0)):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            heat_overlay(image, wrong)
    with pytest.raises(ValueError, match="shape"):
        heat_overlay(image, heat.T)


def test_mask_overlay_and_label_picture():
    image, mask, palette = picture(20, 30), np.zeros((20, 30), np.uint8), voc_palette()
    mask[3:17, 5:19], mask[:, 25:] = 3, 255
    drawn = mask_overlay(image, mask, palette, 0.5, contours=False)
    np.testing.assert_array_equal(drawn[mask == 0], image[mask == 0])
    np.testing.assert_allclose(drawn[mask == 3], (image[mask == 3] + palette[3].astype(float)) / 2, atol=0.51)
    bare = mask_overlay(image, mask, palette, 0.5, contours=False, neutral=None)
    np.testing.assert_array_equal(bare[mask == 255], image[mask == 255])
    before = image.copy()
    edged = contour_overlay(image, mask, palette)
    np.testing.assert_array_equal(image, before)
    assert (edged[3, 5:19] != image[3, 5:19]).any()
    np.testing.assert_array_equal(edged[8:12, 10:14], image[8:12, 10:14])
    plain = label_picture(mask, palette, neutral=(1, 2, 3))
    assert plain[0, 0].tolist() == [0, 0, 0]
    assert plain[10, 10].tolist() == palette[3].tolist()
    assert plain[0, 29].tolist() == [1, 2, 3]


CVD = {
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
    "all": np.eye(3).tolist(),
}
"""Linear RGB as it is seen: Machado, Oliveira and Fernandes 2009, severity 1."""


def nearest(colours: np.ndarray, vision: str) -> float:
    """The least distance of two of the colours (n, 3) in CIELAB, as somebody sees them."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    seen = (linear @ np.array(CVD[vision]).T).clip(0, 1)
    encoded = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(encoded[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return float(apart[~np.eye(len(lab), dtype=bool)].min())


@pytest.mark.parametrize("vision", CVD)
def test_classes_are_told_apart_by_all_eyes(vision):
    assert nearest(np.array(CLASS_COLOURS, float), vision) > 15
    assert vision != "protan" or nearest(voc_palette()[1:7].astype(float), vision) < 5  # why they are not VOC's


def test_colours_repeat_as_late_as_they_can(two_runs):
    _, data = two_runs
    few = class_palette(val(data))
    assert few[1].tolist() == list(CLASS_COLOURS[0]) and few[2].tolist() == list(CLASS_COLOURS[1])
    many = replace(val(data), class_names=tuple(f"c{k}" for k in range(20)))
    shown = [3, 7, 12, 15, 20, 1, 2, 9, 11]
    assert len({tuple(class_palette(many, shown)[index]) for index in shown}) == len(CLASS_COLOURS)
    assert {tuple(colour) for colour in class_palette(many, shown)[1:21]} == set(CLASS_COLOURS)


def test_names_stand_in_their_regions():
    mask = np.zeros((120, 200), np.uint8)
    mask[10:60, 10:90], mask[70:110, 120:190], mask[0, 0] = 1, 2, 3
    bare = np.full((120, 200, 3), 90, np.uint8)
    named = with_names(bare, mask, ["cat", "dog", "sheep"])
    changed = (named != bare).any(2)
    assert changed[10:60, 10:90].any() and changed[70:110, 120:190].any()
    assert not changed[:8].any() and not changed[:, 100:110].any()  # a speck has no name
    np.testing.assert_array_equal(with_names(bare, np.full((120, 200), 255, np.uint8), ["cat"] * 255), bare)


def test_fit_width_keeps_proportions_and_labels():
    assert fit_width(picture(100, 400), 320).shape == (80, 320, 3)
    assert fit_width(picture(10, 20), 320).shape == (10, 20, 3)
    mask = np.full((100, 400), 255, np.uint8)
    mask[:, :200] = 1
    assert set(np.unique(fit_width(mask, 100, nearest=True)).tolist()) == {1, 255}

"""wsss.report and wsss.overlay: the page stands alone, the three forms agree, the figures are those of metrics.json."""

from __future__ import annotations

import base64
import csv
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

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
    assert not {"link", "script", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
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
    for html_row, markdown_row in zip(tables[0][1:], markdown[1:13], strict=True):
        assert [cell.replace("oracle ", "") for cell in markdown_row] == [c.replace("oracle ", "") for c in html_row]
    figures = {(row[0], row[1], row[2]): row for row in markdown[1:13]}
    assert float(figures["good", "masks", "as written"][3]) == round(entries["good", "masks", "masks"].miou, 1)
    assert [row[0] for row in tables[1][1:]] == ["background", *CLASSES]


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
    assert "no ground truth" in page.text
    assert "No figures" in page.text
    assert not page.tables
    assert "No ground truth" in files.markdown.read_text()
    assert list(csv.DictReader(files.csv.open())) == []


def test_one_run_and_a_missing_stage(two_runs, tmp_path):
    runs, data = two_runs
    (runs[0] / "masks" / "a.png").unlink()
    page = Page(write_report(runs[:1], val(data), tmp_path / "one.html", images=["b", "a"]).html.read_text())
    assert len(page.images) == 2 * (2 + 3) - 1
    absent = [attributes for tag, attributes in page.tags if tag == "div" and attributes.get("role") == "img"]
    assert [attributes["aria-label"] for attributes in absent] == ["good has no masks of image a"]


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
    np.testing.assert_array_equal(heat_overlay(image, heat, 0), image)
    full = heat_overlay(image, heat, 1)
    assert np.abs(full[0, 0].astype(int) - (0, 0, 4)).max() <= 1  # ends of inferno, red first
    assert np.abs(full[-1, -1].astype(int) - (252, 255, 164)).max() <= 2
    assert (np.diff((full @ np.array([0.299, 0.587, 0.114])).ravel()) > -2).all()
    half = heat_overlay(image, heat, 0.5)
    np.testing.assert_allclose(half, (image.astype(float) + full) / 2, atol=0.51)
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


def test_fit_width_keeps_proportions_and_labels():
    assert fit_width(picture(100, 400), 320).shape == (80, 320, 3)
    assert fit_width(picture(10, 20), 320).shape == (10, 20, 3)
    mask = np.full((100, 400), 255, np.uint8)
    mask[:, :200] = 1
    assert set(np.unique(fit_width(mask, 100, nearest=True)).tolist()) == {1, 255}

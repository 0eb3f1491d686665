"""The report in a real browser: nothing is cut off, the result is in view on a narrow screen, pictures enlarge."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_run import make_data, make_run, val
from test_report_tests import IDS, make_test

from wsss.entries import save_metrics
from wsss.evaluate import evaluate_run
from wsss.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, Path]:
    """Of one run, of two, and of two with explanation tests; all stages are there."""
    place = tmp_path_factory.mktemp("reports")
    data = make_data(place / "data")
    runs = [place / name for name in ("a_run_with_a_rather_long_name", "bad")]
    for number, run in enumerate(runs):
        make_run(run, data, noise=0.3 + 0.5 * number)
        shutil.copytree(runs[0] / "seeds", run / "refined")
        save_metrics(run, evaluate_run(run, val(data)))
    write_report(runs[:1], val(data), place / "one.html")
    write_report(runs, val(data), place / "two.html")
    tests = [place / "tests" / name for name in ("vit_small.rollout", "vit_small.gradcam")]
    for number, run in enumerate(tests):
        for test in ("perturbation", "segmentation"):
            make_test(run, test, IDS, seed=number, good=0.2 + 0.6 * number, method=run.name.split(".")[1])
    write_report(tests, None, place / "tests.html", pictures=3)
    return {name: place / f"{name}.html" for name in ("one", "two", "tests")}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Debian's Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def opened(browser, path: Path, width: int):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize("name", ["one", "two", "tests"])
def test_nothing_is_cut_off_on_a_desk(browser, reports, name):
    page = opened(browser, reports[name], 1400)
    assert page.evaluate("document.documentElement.scrollWidth") == 1400
    cut = "[...document.querySelectorAll('.scroll, .strip')].map(one => one.scrollWidth - one.clientWidth)"
    assert page.locator(".scroll").count() and max(page.evaluate(cut)) <= 0
    broken = """[...document.querySelectorAll('thead th')].filter(one => one.scrollWidth > one.clientWidth).length"""
    assert page.evaluate(broken) == 0
    page.close()


@pytest.mark.parametrize("name", ["one", "two"])
def test_the_result_is_in_view_on_a_narrow_screen(browser, reports, name):
    page = opened(browser, reports[name], 500)
    assert page.evaluate("document.documentElement.scrollWidth") == 500
    for place in (".outcomes .figure", ".figures td.bar", "figure.masks img"):
        boxes = [one.bounding_box() for one in page.locator(place).all()]
        assert boxes and all(box["x"] >= 0 and box["x"] + box["width"] <= 500 for box in boxes), place
    masks, seeds = (page.locator(f"figure.{kind} img").first.bounding_box() for kind in ("masks", "seeds"))
    assert (masks["y"], masks["x"]) < (seeds["y"], seeds["x"])
    scroll = page.locator(".scroll").first
    first = scroll.locator("tbody tr.lead th").first
    before = first.bounding_box()["x"]
    scroll.evaluate("one => one.scrollLeft = 200")
    assert scroll.evaluate("one => one.scrollLeft") > 0
    assert first.bounding_box()["x"] == pytest.approx(before, abs=1)  # names stay beside the figures
    page.close()


def test_a_click_enlarges_a_picture_and_the_keyboard_closes_it(browser, reports):
    page = opened(browser, reports["two"], 1400)
    failed = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    small, large = page.locator("figure.masks .zoom").first, page.locator("#large")
    width = small.bounding_box()["width"]
    assert not large.is_visible()
    small.click()
    assert large.is_visible() and large.locator("img").bounding_box()["width"] > 2 * width
    assert large.locator("img").get_attribute("src") == small.locator("img").get_attribute("src")
    assert large.locator("p").inner_text() == small.locator("img").get_attribute("alt")
    page.keyboard.press("Escape")
    assert not large.is_visible()
    small.focus()
    page.keyboard.press("Enter")
    assert large.is_visible()
    large.get_by_role("button", name="Close").click()
    assert not large.is_visible() and not failed
    page.close()


def test_tables_and_pictures_have_names_for_those_who_do_not_see_them(browser, reports):
    for path in reports.values():
        page = opened(browser, path, 1400)
        assert page.locator("th:not([scope])").count() == 0
        assert page.locator("main img:not([alt]), main img[alt='']").count() == 0
        assert page.locator("main svg:not([aria-label]):not([aria-hidden])").count() == 0
        page.close()

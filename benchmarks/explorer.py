"""The explorer's page in a browser: seconds from a click to the map, and the screenshot of the documentation.

Beside the seconds stand those that processors were at work for the server, whatever else the machine does.

    python benchmarks/explorer.py --network demo/checkpoints/segmentation_cnn.safetensors PHOTOGRAPH
    python benchmarks/explorer.py --network ... PHOTOGRAPH --screenshot docs/images/explorer.png

Needs Debian's chromium and playwright. The photograph is squeezed to a square of --side pixels for the timing.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cyclopts import App
from PIL import Image
from playwright.sync_api import Page, sync_playwright

app = App(help=__doc__)
WAIT_MS = 180_000


@contextlib.contextmanager
def served(network: str) -> Iterator[tuple[str, int]]:
    """The address of a page that is served while this lasts, and the number of its process."""
    command = [sys.executable, "-u", "-m", "cnnseg.cli", "explore", "--network", network, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = next((line.split()[1] for line in process.stdout if line.startswith("explorer: ")), None)
            if address is None:
                sys.exit("the page did not start, see above")
            yield address, process.pid
        finally:
            process.terminate()


def number(page: Page, place: str = "a") -> str:
    """Of the map that is shown."""
    return page.locator(f"#map-{place} figure").get_attribute("data-number") or "0"


def seconds(page: Page, act: Callable[[], Any], place: str = "a") -> float:
    """From an action to the map that it makes, as the page shows it."""
    before = number(page, place)
    began = time.perf_counter()
    act()
    page.wait_for_function(
        """([place, before]) => {
            const map = document.querySelector(`#map-${place} figure`);
            const shown = map.querySelector(".over");
            return map.dataset.number > 0 && map.dataset.number !== before && map.ariaBusy !== "true" && shown.complete;
        }""",
        arg=[place, before],
    )
    return time.perf_counter() - began


def choose(page: Page, label: str, option: str, place: str = "a") -> None:
    """An entry of a list."""
    page.locator(f"#panel-{place}").get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def visit(page: Page, address: str) -> None:
    """Open the page, and wait for the map of the first example."""
    page.set_default_timeout(WAIT_MS)
    page.goto(address)
    page.wait_for_function("document.querySelector('#map-a figure')?.dataset.number > 0")


@app.default
def main(
    photograph: Path,
    /,
    *,
    network: str,
    side: int = 320,
    clicks: int = 9,
    methods: str = "gradcam lrp input_x_gradient",
    screenshot: Path | None = None,
) -> None:
    """Print the median of several clicks for each method, or take the screenshot."""
    with served(network) as (address, process), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 880})
        visit(page, address)
        if screenshot is not None:
            take(page, photograph, screenshot)
        else:
            measure(page, process, photograph, side, clicks, methods.split())
        browser.close()


def worked(process: int) -> float:
    """Seconds that processors were at work for a process of Linux."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(page: Page, process: int, photograph: Path, side: int, clicks: int, methods: list[str]) -> None:
    """Points on a square photograph, one method after the other; the first of each is not counted."""
    buffer = io.BytesIO()
    Image.open(photograph).convert("RGB").resize((side, side)).save(buffer, "PNG")
    upload = {"name": "square.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    opened = seconds(page, lambda: page.locator("#stage input[type=file]").set_input_files(upload))
    print(f"photograph of {side} x {side} opened, first map: {opened:.2f} s")
    canvas = page.locator("#stage canvas")
    box = canvas.bounding_box()
    assert box is not None
    for method in methods:
        if method != "gradcam":
            seconds(page, lambda name=method: choose(page, "Method", name))
        times, work = [], []
        for click in range(clicks):
            where = {"x": box["width"] * (0.3 + 0.04 * click), "y": box["height"] * 0.5}
            before = worked(process)
            times.append(seconds(page, lambda spot=where: canvas.click(position=spot)))
            work.append(worked(process) - before)
        median, busy = statistics.median(times), statistics.median(work)
        print(f"{method}: median of {clicks} clicks {median:.2f} s, longest {max(times):.2f} s; at work {busy:.2f} s")


def take(page: Page, photograph: Path, out: Path) -> None:
    """The photograph with GradCAM and LRP side by side, as a PNG of few colours."""
    seconds(page, lambda: page.locator("#stage input[type=file]").set_input_files(photograph))
    page.get_by_label("Second settings beside the first").check()
    page.wait_for_function("document.querySelector('#map-b figure')?.dataset.number > 0")
    seconds(page, lambda: choose(page, "Method", "lrp", "b"), "b")
    page.mouse.move(0, 0)
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(256, kmeans=8, dither=Image.Dither.FLOYDSTEINBERG).save(out, optimize=True)
    print(f"{out}: {picture.width} x {picture.height} pixels, {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    app()

"""The explorer's page in a real browser, and its server as it stands on the network."""

from __future__ import annotations

import asyncio
import copy
import http.client
import io
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bad_uploads import bad_uploads
from PIL import Image
from small_explorer import NAMES, SIZE, colour_network, photograph, png

from cnnseg.explorer.segmenting import ExplainedSegmenter
from cnnseg.regions.explaining import explain_segmentation
from cnnseg.regions.settings import question_of
from wsss.colours import scale_colours
from wsss.explorer.asking import Explorer
from wsss.explorer.explained import Cancelled
from wsss.explorer.serving import build

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'relseg[explorer]'")
import uvicorn  # comes with Gradio
from gradio.queueing import Queue
from gradio.server_messages import ProcessCompletedMessage

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    """What is behind the page: the network that knows colours."""
    made = Explorer(ExplainedSegmenter(colour_network(), "colours"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(explorer, tmp_path_factory) -> Iterator[str]:
    """The address of the page."""
    folder = tmp_path_factory.mktemp("gradio")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(build(explorer), log_level="error", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    running.should_exit = True
    thread.join(20)
    listening.close()
    assert not [path for path in folder.rglob("*") if path.is_file()], "nothing may be written to the disk"


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Visit:
    """A page that is open, with what a visitor does on it."""

    def __init__(self, context, address: str) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.goto(address, timeout=WAIT_MS)
        self.wait_for_map("0")

    @property
    def number(self) -> str:
        return self.page.locator("#map-a figure").get_attribute("data-number")

    def wait_for_map(self, before: str, place: str = "a") -> None:
        self.page.wait_for_function(
            """([place, before]) => {
                const map = document.querySelector(`#map-${place} figure`);
                return map && map.dataset.number > 0 && map.dataset.number !== before && map.ariaBusy !== "true";
            }""",
            arg=[place, before],
        )

    def after(self, act: Callable[[], object]) -> Visit:
        """Do something that makes a new map, and wait for it."""
        before = self.number
        act()
        self.wait_for_map(before)
        return self

    def upload(self, name: str, content: bytes) -> None:
        self.page.locator("#stage input[type=file]").set_input_files({"name": name, "mimeType": "", "buffer": content})

    def open(self, image: np.ndarray | None = None, name: str = "colours.png") -> Visit:
        self.after(lambda: self.upload(name, png(photograph() if image is None else image)))
        self.page.wait_for_function(
            "name => document.querySelector('#stage .status').textContent.includes(name)", arg=name
        )
        return self

    def tool(self, name: str) -> None:
        self.page.locator("#stage .tools").get_by_text(name, exact=True).click()

    def at(self, x: float, y: float) -> dict[str, float]:
        """Where a pixel of the photograph lies on the canvas."""
        box = self.page.locator("#stage canvas").bounding_box()
        return {"x": box["width"] * (x + 0.5) / SIZE[1], "y": box["height"] * (y + 0.5) / SIZE[0]}

    def click(self, x: float, y: float) -> None:
        self.page.locator("#stage canvas").click(position=self.at(x, y))

    def drag(self, *points: tuple[float, float]) -> None:
        canvas = self.page.locator("#stage canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        spots = [self.at(*point) for point in points]
        self.page.mouse.move(box["x"] + spots[0]["x"], box["y"] + spots[0]["y"])
        self.page.mouse.down()
        for spot in spots[1:]:
            self.page.mouse.move(box["x"] + spot["x"], box["y"] + spot["y"], steps=4)
        self.page.mouse.up()

    def choose(self, label: str, option: str, place: str = "a") -> None:
        self.page.locator(f"#panel-{place}").get_by_label(label, exact=True).click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def download(self, what: str) -> tuple[str, bytes]:
        with self.page.expect_download() as caught:
            self.page.locator("#map-a").get_by_role("button", name=what, exact=True).click()
        return caught.value.suggested_filename, Path(caught.value.path()).read_bytes()

    def settings(self) -> dict:
        return json.loads(self.download("Settings")[1])

    @property
    def status(self) -> str:
        return self.page.locator("#stage .status").inner_text()


@pytest.fixture
def visit(browser, server) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
    opened = Visit(context, server)
    yield opened
    assert not opened.errors
    context.close()


def test_upload_class_pixel_area_layer_method_download(visit):
    visit.open()
    assert "160 x 120 pixels" in visit.status and "predicted as blue" in visit.status
    visit.after(lambda: visit.page.locator("#stage .classes").get_by_text("red").click())
    assert "all that is predicted as red" in visit.status
    visit.after(lambda: visit.click(116, 44))
    assert "1 pixel," in visit.status
    assert visit.settings()["region"] == {"kind": "pixels", "points": [[116, 44]]}
    visit.tool("Rectangle")
    visit.after(lambda: visit.drag((20, 24), (60, 56)))
    visit.tool("Add")
    visit.tool("Lasso")
    visit.after(lambda: visit.drag((10, 84), (150, 84), (150, 112), (10, 112)))
    visit.tool("Take away")
    visit.tool("Brush")
    visit.after(lambda: visit.drag((80, 80), (80, 116)))
    visit.after(lambda: visit.choose("Method", "layercam"))
    visit.after(lambda: visit.choose("Layer", "network.encoder (30 x 40)"))
    visit.after(lambda: visit.choose("Class", "blue"))
    visit.after(lambda: visit.choose("Score", "margin"))
    settings = visit.settings()
    question = question_of(settings, "downloaded")
    chosen = {key: settings[key] for key in ("method", "layer", "class", "score", "image")}
    assert chosen == {
        "method": "layercam",
        "layer": "network.encoder",
        "class": "blue",
        "score": "margin",
        "image": "colours.png",
    }
    area = question.region.array()
    assert area[30, 40] and area[95, 30] and area[95, 130] and not area[98, 80] and not area[70, 40]
    wanted = explain_segmentation(colour_network(), photograph(), question)
    name, content = visit.download("Map")
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        assert np.array_equal(found["maps"][0], wanted.map) and found["scores"] == [wanted.score]
        assert np.array_equal(found["region"], area)
    assert name == "colours.blue.layercam.network.encoder.npz"
    picture = Image.open(io.BytesIO(visit.download("Picture")[1]))
    assert picture.size == (160, 120)


def test_lrp_with_composite_is_signed_and_equals_the_python_api(visit):
    visit.open()
    visit.after(lambda: visit.choose("Method", "lrp"))
    visit.after(lambda: visit.choose("Composite", "gamma"))
    scale = visit.page.locator("#map-a .ramp").evaluate("e => getComputedStyle(e).backgroundImage")
    below, above = scale_colours(signed=True, count=2).tolist()
    assert below[2] > 200 and all(f"rgb({r}, {g}, {b})" in scale for r, g, b in (below, above))
    assert visit.page.locator("#map-a .low").inner_text().startswith("-")
    with np.load(io.BytesIO(visit.download("Map")[1]), allow_pickle=False) as found:
        wanted = explain_segmentation(colour_network(), photograph(), method="lrp", rules="gamma", class_name="blue")
        assert np.array_equal(found["maps"][0], wanted.map)


def test_everything_comes_from_this_machine(visit, server):
    visit.open()
    visit.page.get_by_role("button", name="All classes").click()
    visit.page.wait_for_function("document.querySelectorAll('#tiles figure').length === 4")
    others = [url for url in visit.requests if not url.startswith((server + "/", "data:", "blob:"))]
    assert len(visit.requests) > 20 and not others


def test_small_multiples(visit):
    visit.open()
    visit.page.get_by_role("button", name="All classes").click()
    visit.page.wait_for_function("document.querySelectorAll('#tiles figure').length === 4")
    assert visit.page.locator("#tiles figcaption").all_inner_texts() == list(NAMES)
    visit.page.get_by_role("button", name="All layers").click()
    visit.page.wait_for_function("document.querySelector('#tiles figcaption')?.textContent.startsWith('network')")
    visit.after(lambda: visit.choose("Method", "input_x_gradient"))
    visit.page.get_by_role("button", name="All layers").click()
    visit.page.get_by_text("input_x_gradient looks at no layer").wait_for()


def test_two_settings_side_by_side(visit):
    visit.open()
    visit.page.get_by_label("Second settings beside the first").check()
    visit.wait_for_map("0", "b")
    before = visit.page.locator("#map-b figure").get_attribute("data-number")
    visit.choose("Method", "lrp", "b")
    visit.wait_for_map(before, "b")
    assert visit.page.locator("#map-b .low").inner_text().startswith("-")
    assert not visit.page.locator("#map-a .low").inner_text().startswith("-")
    before = visit.page.locator("#map-b figure").get_attribute("data-number")
    visit.after(lambda: visit.click(116, 44))  # both follow the region
    visit.wait_for_map(before, "b")
    assert "green" in visit.page.locator("#map-b figcaption").inner_text()


def test_opacity_needs_no_server(visit):
    slider = visit.page.get_by_label("Opacity of the map").first
    number = len(visit.requests)
    slider.fill("20")
    assert visit.page.locator("#map-a .over").evaluate("image => image.style.opacity") == "0.2"
    assert len(visit.requests) == number


def test_keyboard_alone(visit):
    visit.open()
    canvas = visit.page.locator("#stage canvas")
    canvas.focus()
    for _ in range(5):
        canvas.press("ArrowRight")
    canvas.press("ArrowUp")
    visit.after(lambda: canvas.press("Enter"))
    ((x, y),) = visit.settings()["region"]["points"]
    assert (x, y) == (80 + 16, 60 - 4)  # 3.2 pixels a step
    button = visit.page.locator("#stage .classes button").nth(1)
    button.focus()
    visit.after(lambda: button.press("Enter"))
    assert "predicted as red" in visit.status
    for image in visit.page.locator("img[src]").all():
        assert image.get_attribute("alt") is not None


@pytest.mark.parametrize("width", [1400, 500])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_and_text_stands_out(browser, server, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    visit = Visit(context, server)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    for place in ("#header h1", "#header .title", "#stage .status", "#stage .choice span", "#map-a figcaption"):
        assert visit.page.locator(place).first.evaluate(_CONTRAST) >= 4.5, place
    context.close()


_CONTRAST = """element => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const linear = (v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = parts(colour).slice(0, 3).map(linear);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let behind = element;
  const clear = (one) => (parts(getComputedStyle(one).backgroundColor)[3] ?? 1) === 0;
  while (behind.parentElement && clear(behind)) behind = behind.parentElement;
  const [a, b] = [light(getComputedStyle(element).color), light(getComputedStyle(behind).backgroundColor)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


def test_bad_uploads_leave_a_line_and_the_photograph(visit, tmp_path):
    visit.open()
    for name in ("text.png", "cut.jpg", "bomb.png", "drawing.svg"):
        visit.upload(name, bad_uploads()[name])
        visit.page.wait_for_function("document.querySelector('#stage .status.wrong')?.textContent")
        visit.after(lambda: visit.click(116, 44))  # goes on as if nothing had been
        assert "1 pixel," in visit.status
    (tmp_path / "large.jpg").write_bytes(b"\xff" * 20_000_001)
    visit.page.locator("#stage input[type=file]").set_input_files(tmp_path / "large.jpg")
    visit.page.get_by_text("The file has 20 MB").wait_for()
    assert visit.settings()["image"] == "colours.png"


def test_tall_photograph_is_clicked_where_it_is(visit):
    tall = np.rot90(photograph()).repeat(4, 0).repeat(2, 1)
    visit.after(lambda: visit.upload("tall.png", png(tall)))
    box = visit.page.locator("#stage canvas").bounding_box()
    assert box["height"] <= 0.77 * 1000 and box["width"] / box["height"] == pytest.approx(240 / 640, abs=0.01)
    spot = {"x": box["width"] * 0.25, "y": box["height"] * 0.75}
    visit.after(lambda: visit.page.locator("#stage canvas").click(position=spot))
    ((x, y),) = visit.settings()["region"]["points"]
    assert x == pytest.approx(60, abs=2) and y == pytest.approx(480, abs=2)


@pytest.fixture
def slow(explorer, monkeypatch) -> Iterator[Slow]:
    """Maps that take half a minute while `held`, if they are not cancelled."""
    made = Slow(explorer.explained.explain)
    monkeypatch.setattr(explorer.explained, "explain", made)
    yield made
    made.held = False


class Slow:
    """An `explain` that tells when it is at work and when that was ended."""

    def __init__(self, explain: Callable) -> None:
        self._explain, self.held, self.quick = explain, True, 0
        self.going, self.ended = threading.Event(), threading.Event()

    def __call__(self, look, setting, region, told):
        if self.quick:
            self.quick -= 1
        elif self.held:
            self._wait(told)
        return self._explain(look, setting, region, told)

    def _wait(self, told: Callable) -> None:
        try:
            for step in range(600):
                told(step / 600)
                self.going.set()
                time.sleep(0.05)
        except Cancelled:
            self.ended.set()
            raise


@pytest.fixture
def late_ends(monkeypatch) -> Callable[[], None]:
    """Gradio's closing message of every answer, which repeats its last value, comes late; waits until all have come."""
    send, coming = Queue.send_message, set()

    def late(self, event, message):
        if isinstance(message, ProcessCompletedMessage):
            coming.add(event._id)
            asyncio.get_running_loop().call_later(0.7, arrive, self, event, message)
        else:
            send(self, event, message)

    def arrive(self, event, message):
        send(self, event, message)
        coming.discard(event._id)

    def wait():
        until = time.monotonic() + WAIT_MS / 1000
        while coming:
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(0.3)  # on its way to the page

    monkeypatch.setattr(Queue, "send_message", late)
    return wait


IDLE = "document.querySelector('#map-a figure').ariaBusy !== 'true'"


def test_map_that_is_cancelled(visit, slow, late_ends):
    slow.held = False
    visit.open()
    before = visit.number, visit.page.locator("#map-a figcaption").inner_text()
    slow.held = True
    visit.click(116, 44)
    assert slow.going.wait(30)
    visit.page.locator("#map-a .busy").get_by_role("button", name="Cancel").click()
    visit.page.wait_for_function(IDLE)
    assert slow.ended.wait(30)
    late_ends()
    assert visit.page.evaluate(IDLE) and visit.page.locator("#map-a .busy").is_hidden()
    assert (visit.number, visit.page.locator("#map-a figcaption").inner_text()) == before
    slow.held = False
    visit.after(lambda: visit.click(100, 44))


def test_map_that_is_replaced_by_another_click(visit, slow, late_ends):
    slow.quick = 1
    visit.open()
    visit.click(116, 44)
    visit.page.locator("#map-a .busy").wait_for()
    slow.held = False
    visit.after(lambda: visit.click(100, 44))
    number = visit.number
    late_ends()
    assert visit.page.evaluate(IDLE) and visit.number == number
    assert visit.settings()["region"] == {"kind": "pixels", "points": [[100, 44]]}


def test_small_multiples_that_are_cancelled(visit, slow, late_ends):
    slow.quick = 3  # the map of the photograph, and two of the four
    visit.open()
    visit.page.get_by_role("button", name="All classes").click()
    assert slow.going.wait(30)
    tiles = visit.page.locator("#tiles")
    tiles.get_by_role("button", name="Cancel").click()
    visit.page.get_by_text("Cancelled.").wait_for()
    assert slow.ended.wait(30)
    late_ends()
    assert tiles.locator(".line").inner_text() == "Cancelled." and tiles.locator(".going").is_hidden()
    assert tiles.locator("figcaption").all_inner_texts() == list(NAMES)[:2]
    slow.held = False
    visit.page.get_by_role("button", name="All classes").click()
    visit.page.wait_for_function("document.querySelectorAll('#tiles figure').length === 4")
    late_ends()
    assert not tiles.locator(".line").inner_text() and tiles.locator(".going").is_hidden()


def test_visitor_who_leaves_is_forgotten(browser, server, explorer):
    context = browser.new_context()
    before = len(explorer.sessions)
    Visit(context, server)
    assert len(explorer.sessions) == before + 1
    context.close()
    until = time.monotonic() + 60
    while len(explorer.sessions) > before and time.monotonic() < until:
        time.sleep(0.1)
    assert len(explorer.sessions) <= before


# The server without a browser


class Client:
    """A page without a browser: the calls that Gradio's own makes."""

    def __init__(self, address: str, key: str) -> None:
        self.host, self.key = address.removeprefix("http://"), key
        config = json.loads(self.request("GET", "/config")[1])
        self.events = {
            (config_of(config, one["targets"][0][0]), one["targets"][0][1]): one for one in config["dependencies"]
        }
        self.values = {one["id"]: one["props"].get("value") for one in config["components"]}
        self.names = {one["id"]: config_of(config, one["id"]) for one in config["components"]}

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        headers = {"content-type": "application/json"} if body else {}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    def act(self, part: str, event: str, data: object = None) -> dict[str, dict]:
        """What an event makes of the parts of the page: name -> its last whole value."""
        known = self.events[part, event]
        inputs = [self.values[number] for number in known["inputs"]]
        body = {
            "data": inputs,
            "event_data": data,
            "fn_index": known["id"],
            "session_hash": self.key,
            "trigger_id": None,
        }
        status, answer = self.request("POST", "/gradio_api/queue/join", json.dumps(body).encode())
        assert status == 200, answer
        return self._listen(json.loads(answer)["event_id"], known["outputs"])

    def _listen(self, event: str, outputs: list[int]) -> dict[str, dict]:
        _, content = self.request("GET", f"/gradio_api/queue/data?session_hash={self.key}")
        sent: list = [None] * len(outputs)
        whole: dict[str, dict] = {}
        for line in content.decode().splitlines():
            message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if message.get("event_id") != event or message["msg"] not in ("process_generating", "process_completed"):
                continue
            if not message["success"]:
                return {"error": message["output"]}
            for place, one in enumerate(message["output"].get("data", [])):
                sent[place] = _patched(sent[place], one)
                if isinstance(sent[place], dict) and not {"__type__", "keep"} & sent[place].keys():
                    whole[self.names[outputs[place]]] = copy.deepcopy(sent[place])
        return whole


def _patched(old, new):
    """A value, of which Gradio sends only what has changed once it is known."""
    if not (isinstance(new, list) and all(isinstance(part, list) and len(part) == 3 for part in new)):
        return new
    for action, path, value in new:
        if not path:
            old = value
            continue
        at = old
        for step in path[:-1]:
            at = at[step]
        if action == "delete":
            del at[path[-1]]
        elif action == "append":
            at[path[-1]] += value
        elif action == "add" and isinstance(at, list):
            at.insert(int(path[-1]), value)
        else:
            at[path[-1]] = value
    return old


def config_of(config: dict, number: int | None) -> str:
    """The elem_id of a component, else its number."""
    found = next((one for one in config["components"] if one["id"] == number), None)
    return (found or {"props": {}})["props"].get("elem_id") or str(number)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=..%2f..%2f..%2f..%2fetc/passwd",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/static/....//....//etc/passwd",
        "/assets/..%5c..%5cetc/passwd",
        "/assets/%252e%252e/%252e%252e/etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/gradio_api/custom_component/1/client/component/..%2f..%2fx",
    ],
)
def test_no_file_of_the_machine_can_be_read(server, path):
    client = Client(server, "paths")
    status, content = client.request("GET", path)
    assert status == 404 and b"root:" not in content
    for _ in range(5):
        try:
            assert client.request("POST", "/gradio_api/upload", b"x" * 100)[0] == 404
            break
        except ConnectionResetError:  # it was refused before all of it was sent
            continue
    else:
        pytest.fail("never answered")


def test_events_that_nobody_clicked_are_answered_with_a_line(server):
    client = Client(server, "mischief")
    client.act("stage", "photo", {"name": "a.png", "data": "no base64 !"})
    for event, data in (
        ("photo", {"path": "/etc/passwd", "url": "file:///etc/passwd"}),
        ("photo", None),
        ("example", {"index": "/etc/passwd"}),
        ("draw", {"tool": "lasso"}),
        ("pick", {"index": {"a": 1}}),
    ):
        found = client.act("stage", event, data)
        assert "error" in found or found["stage"]["wrong"], event


def test_bad_uploads_are_refused_with_a_line(server):
    client = Client(server, "uploads")
    found = client.act("stage", "photo", {"name": "colours.png", "data": _base64(png(photograph()))})
    assert not found["stage"]["wrong"]
    for name, content in bad_uploads().items():
        found = client.act("stage", "photo", {"name": name, "data": _base64(content)})["stage"]
        assert found["wrong"] and "\n" not in found["line"] and found["alt"].startswith("colours.png"), name
    connection = http.client.HTTPConnection(client.host, timeout=60)
    connection.putrequest("POST", "/gradio_api/queue/join")
    connection.putheader("content-length", "28000000")
    connection.endheaders()  # refused before any of it is sent
    assert connection.getresponse().status == 413
    connection.close()


def test_four_visitors_at_once_keep_their_own(server):
    """For ten seconds; RELSEG_EXPLORER_SECONDS says otherwise."""
    seconds = float(os.environ.get("RELSEG_EXPLORER_SECONDS", "10"))
    colours = {"red": (230, 40, 40), "green": (40, 220, 50), "blue": (40, 50, 230), "background": (128, 128, 128)}
    until = time.monotonic() + seconds

    def visit(colour: str) -> int:
        client, rounds = Client(server, f"four{colour}"), 0
        image = np.full((96, 112, 3), 128, np.uint8)
        image[24:64, 32:72] = colours[colour]
        sent = {"name": f"{colour}.png", "data": _base64(png(image))}
        while rounds < 2 or time.monotonic() < until:
            found = client.act("stage", "photo", sent)
            assert f"{colour}.png, 112 x 96" in found["stage"]["line"] and found["map-a"]["line"].startswith(colour)
            x, y = 40 + rounds % 8, 30
            found = client.act("stage", "draw", {"tool": "point", "points": [[x, y]], "mode": "new"})
            assert found["stage"]["pixels"] == [[x, y]] and found["map-a"]["line"].startswith(f"{colour}: ")
            file = client.act("map-a", "download", {"what": "settings"})["courier"]
            assert f"{colour}.png" in _text(file["data"]) and f"{x}" in _text(file["data"])
            rounds += 1
        return rounds

    with ThreadPoolExecutor(4) as visitors:
        rounds = list(visitors.map(visit, colours))
    print(f"rounds in {seconds:g} s: {rounds}")
    assert min(rounds) >= 2


def _base64(content: bytes) -> str:
    import base64

    return base64.b64encode(content).decode()


def _text(data: str) -> str:
    import base64

    return base64.b64decode(data).decode()

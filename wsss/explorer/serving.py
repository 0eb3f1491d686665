"""The server: what of Gradio is let through to the network, how much may be sent to it, and to whom it answers."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from wsss.errors import InputError
from wsss.explorer.asking import Explorer
from wsss.explorer.explained import ExplainedModel
from wsss.explorer.uploads import LARGEST_FILE
from wsss.extras import extra
from wsss.progress import note, warn

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")

LARGEST_BODY = LARGEST_FILE * 4 // 3 + 500_000
"""Bytes of a request: a file in base64, and the settings beside it."""

OPEN = {
    "GET": r"/|/config|/theme\.css|/favicon\.ico|/(assets|static)/[\w./-]+"
    r"|/gradio_api/(queue/data|heartbeat/\w+|startup-events|app_id)",
    "POST": r"/gradio_api/(queue/join|cancel|reset)",
}
"""All that the page needs of Gradio, by method. Its ways to upload and to read files, to fetch other addresses, its API
and its editors are not among it, so that no path of this machine can be asked for."""

HEADERS = {
    "content-security-policy": "; ".join(
        (
            "default-src 'self'",
            "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio compiles the JavaScript of its HTML component
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
        )
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}
"""The browser itself refuses to load anything from elsewhere."""


class Doorkeeper:
    """Refuses whatever the page does not need.

    ``hosts``: names that a request may come for; None: any. Another name on loopback is a foreign page that has its
    own name point here (DNS rebinding).
    """

    def __init__(self, app: App, hosts: tuple[str, ...] | None) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """An ASGI application."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        refused = self._refused(scope, headers)
        if refused is not None:
            await _answer(send, *refused)
            return
        taken = 0
        started = False

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > LARGEST_BODY:
                raise _TooLarge
            return message

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = [(key.encode(), value.encode()) for key, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        try:
            await self._app(scope, counted, guarded)
        except _TooLarge:
            if not started:
                await _answer(send, 413, _TOO_LARGE)

    def _refused(self, scope: Message, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and line, unless the request may pass."""
        host = re.sub(r":\d+$", "", headers.get("host", "")).strip("[]")
        if self._hosts is not None and host not in self._hosts:
            return 421, "This server is not called that."
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        path = scope["path"]
        if ".." in path or not re.fullmatch(OPEN.get(method, r"(?!)"), path):
            return 404, "There is no such page."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            return 413, _TOO_LARGE
        return None


class _TooLarge(Exception):
    """More is sent than was announced, or may be."""


_TOO_LARGE = f"Files of at most {LARGEST_FILE / 1e6:.0f} MB are taken."


async def _answer(send: Any, status: int, line: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": line.encode()})


def build(explorer: Explorer, *, hosts: tuple[str, ...] | None = LOOPBACK) -> Doorkeeper:
    """The page of an explorer as an ASGI application.

    Raises:
        InputError: Gradio is not installed.
    """
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
    with extra("explorer"):
        import fastapi
        import gradio
    from wsss.explorer.look import theme
    from wsss.explorer.page import Page
    from wsss.explorer.widgets import static

    blocks = Page(explorer).blocks
    blocks.queue(max_size=100, default_concurrency_limit=16)
    mounted = gradio.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        blocks,
        "/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        show_error=False,
        max_file_size=1,
        theme=theme(),
        css=static("page.css"),
    )
    return Doorkeeper(mounted, hosts)


def serve(explained: ExplainedModel, *, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page until it is interrupted.

    Args:
        host: an address of this machine; others than loopback let anybody in who reaches it, which is said.
        port: 0 takes any that is free.

    Raises:
        InputError: Gradio is not installed, or the address cannot be had.
    """
    local = host in LOOPBACK
    listening = _listen(host, port)
    with tempfile.TemporaryDirectory(prefix="relseg-explorer-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # nothing is written there; if ever, it does not stay
        explorer = Explorer(explained)
        explorer.warm_up()
        app = build(explorer, hosts=LOOPBACK if local else None)
        with extra("explorer"):
            import uvicorn

        if not local:
            warn(f"`host` {host}: anybody who reaches this machine can use the page; there is no password")
        shown = f"[{host}]" if ":" in host else host
        note(f"{explained.title}\nexplorer: http://{shown}:{listening.getsockname()[1]}  (Ctrl-C ends it)")
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, timeout_keep_alive=20)
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            note("stopped")
        finally:
            listening.close()
            explorer.close()


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise InputError(f"`port` {port}: expected 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise InputError(f"`host` {host} `port` {port}: {os.strerror(error.errno or 0).lower()}; try another") from None
    return listening

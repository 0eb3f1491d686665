"""Files that are no photograph, or one that is not to be taken."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from functools import cache

import numpy as np
from PIL import Image


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _photograph(side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, rows: bytes, *others: bytes) -> bytes:
    """A grey PNG that claims a size, whatever its rows are."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(others)
        + _chunk(b"IDAT", zlib.compress(rows, 9))
        + _chunk(b"IEND", b"")
    )


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("cat.jpg", b"no cat")
    return buffer.getvalue()


@cache
def bad_uploads() -> dict[str, bytes]:
    """Name of the file -> its content; 21 of them."""
    jpeg, png = _saved(_photograph(), "JPEG"), _saved(_photograph(), "PNG")
    deep = Image.fromarray(np.full((64, 64), 40_000, np.uint16))
    return {
        "empty.jpg": b"",
        "text.png": b"This is not a photograph.\n" * 50,
        "page.jpg": b"<!doctype html><script>alert(1)</script>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><rect width="9" height="9"/></svg>',
        "document.pdf": b"%PDF-1.7\n1 0 obj << /Type /Catalog >> endobj\n%%EOF",
        "program.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(/etc/passwd) (r) file\n%%EOF",
        "archive.jpg": _zip(),
        "pickle.png": b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
        "noise.webp": np.random.default_rng(1).bytes(5000),
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.png": png[: len(png) // 2],
        "broken.png": png[:300] + b"\x00" * 40 + png[340:],
        "head.gif": b"GIF89a" + struct.pack("<HH", 64, 64),
        "deep.png": _saved(deep, "PNG"),
        "huge.png": _saved(Image.new("1", (11_000, 11_000)), "PNG"),
        "bomb.png": _png(60_000, 60_000, b"\x00" * 1_000_000),
        "text_bomb.png": _png(
            64, 64, b"\x00" * 65 * 64, _chunk(b"zTXt", b"a\x00\x00" + zlib.compress(b"a" * 90_000_000, 9))
        ),
        "long.png": _saved(Image.new("L", (20_000, 40)), "PNG"),
        "dot.png": _saved(_photograph(1), "PNG"),
        "tall.bmp": _saved(Image.new("RGB", (8, 4_000)), "BMP"),
        "scan.tiff": _saved(_photograph(), "TIFF"),
    }

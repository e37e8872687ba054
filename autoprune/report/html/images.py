"""Pixels -> a data URI that browsers show: a PNG written here, so that nothing of a stored file gets into the page."""

from __future__ import annotations

import base64
import struct
import zlib

from autoprune.report.pictures import Raster

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2}


def data_uri(raster: Raster) -> str:
    """Return an image as a PNG of eight bits a channel, in a data URI."""
    return f"data:image/png;base64,{base64.b64encode(png_of(raster)).decode('ascii')}"


def png_of(raster: Raster) -> bytes:
    """Return an image as a PNG file (RFC 2083)."""
    pixels, stride = raster.pixels(), raster.width * raster.channels
    rows = b"".join(b"\0" + pixels[i : i + stride] for i in range(0, len(pixels), stride))
    header = struct.pack(">IIBBBBB", raster.width, raster.height, 8, _COLOUR_TYPES[raster.channels], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

"""PNG images of any size, in one colour."""

from __future__ import annotations

import struct
import zlib


def png(width: int, height: int, transparent: bool = False) -> bytes:
    """Build an image in one colour, or a fully transparent one."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    colour_type, pixel = (6, b"\0\0\0\0") if transparent else (2, b"\x2e\x8b\x57")
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    packer = zlib.compressobj(1)
    # Each row begins with its filter, which is none.
    row = b"\0" + pixel * width
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks

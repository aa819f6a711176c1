"""Pixels that are asked for, read back from the PNG."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from policies.calibration.raster import _GLYPHS, Canvas

RED, BLACK, WHITE = (255, 0, 0), (0, 0, 0), (255, 255, 255)


def pixels(png: bytes) -> NDArray[np.uint8]:
    """Height x width x 3. Fails where the file is no PNG of unfiltered RGB."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(png):
        (size,) = struct.unpack_from(">I", png, at)
        name, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", png, at + 8 + size) == (zlib.crc32(name + data),)
        chunks[name] = data
        at += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 2, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def coloured(canvas: Canvas, colour: tuple[int, int, int]) -> set[tuple[int, int]]:
    """(x, y) of the pixels of a colour."""
    rows, columns = np.nonzero((pixels(canvas.png()) == colour).all(axis=2))
    return set(zip(columns.tolist(), rows.tolist(), strict=True))


def test_a_line_goes_from_its_start_to_its_end() -> None:
    canvas = Canvas(40, 20)
    canvas.line((5, 15), (30, 3), RED)
    found = coloured(canvas, RED)
    assert {(5, 15), (30, 3)} <= found
    assert {x for x, _ in found} == set(range(5, 32)), "without a gap"
    canvas.line((0, 0), (39, 0), BLACK, dashed=True)
    assert 10 < len({x for x, _ in coloured(canvas, BLACK)}) < 35


def test_a_dot_is_round_and_what_lies_outside_is_left_out() -> None:
    canvas = Canvas(20, 20)
    canvas.dot((10, 10), 4, RED)
    found = coloured(canvas, RED)
    assert {(10, 6), (10, 14), (6, 10), (14, 10)} <= found
    assert (6, 6) not in found
    edge = Canvas(20, 20)
    edge.dot((-1, 25), 6, RED)
    edge.line((-50, -50), (-10, -1), RED)
    edge.text((15, 18), "88", RED)
    assert (19, 0) not in coloured(edge, RED), "nothing comes in again at the other side"


def test_words_are_where_they_are_asked_to_be() -> None:
    canvas = Canvas(60, 20)
    canvas.text((3, 2), "1", BLACK, scale=1)
    assert coloured(canvas, BLACK) == {(5, 2), (4, 3), (5, 3), (5, 4), (5, 5), (5, 6), (5, 7), (4, 8), (5, 8), (6, 8)}
    canvas.text((60, 2), "11", RED, scale=1, ends=True)
    assert {x for x, _ in coloured(canvas, RED)} == {49, 50, 51, 55, 56, 57}


def test_each_sign_has_a_shape_of_its_own() -> None:
    assert all(len(rows) in (14, 18) and max(bytes.fromhex(rows)) < 32 for rows in _GLYPHS.values())
    assert len(set(_GLYPHS.values())) == len(_GLYPHS)

"""A picture of pixels: lines, dots and a few words in, a PNG out.

By hand, for one picture: matplotlib would make an install a third larger (101 MB and ten packages beside 280 MB, release 3.11), and
`headgate calibrate` take most of a second more.
"""

from __future__ import annotations

import struct
import zlib
from typing import TypeAlias

import numpy as np

Colour: TypeAlias = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

_GLYPHS = {
    "0": "0e11131519110e", "1": "040c040404040e", "2": "0e11010204081f", "3": "1f02040201110e", "4": "02060a121f0202",
    "5": "1f101e0101110e", "6": "0608101e11110e", "7": "1f010204080808", "8": "0e11110e11110e", "9": "0e11110f01020c",
    "a": "00000e010f110f", "c": "00000e1010110e", "d": "01010d1311110f", "e": "00000e111f100e", "f": "0609081c080808",
    "g": "00000f1111110f010e", "h": "10101619111111", "i": "04000c0404040e", "l": "0c04040404040e", "n": "00001619111111",
    "o": "00000e1111110e", "p": "00001e1111111e1010", "q": "00000f1111110f0101", "r": "00001619101010", "s": "00000e100e011e",
    ":": "000c0c000c0c00", "t": "08081c08080906", "u": "0000111111130d", "v": "00001111110a04", "y": "0000111111110f010e",
    "%": "18190204081303", ",": "00000000000c0c0408", ".": "00000000000c0c", "-": "0000001f000000", "(": "02040808080402",
    ")": "08040202020408",
}  # fmt: skip
"""Seven rows of five pixels, the leftmost the highest bit; two more where a sign goes below the line. What is not there is blank."""
_WIDE = 6
"""Pixels from a sign to the next."""


class Canvas:
    """`width` x `height` pixels, white at first; (0, 0) is at the top left. What lies outside is not drawn."""

    def __init__(self, width: int, height: int) -> None:
        self._pixels = np.full((height, width, 3), 255, np.uint8)

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: Colour, dashed: bool = False) -> None:
        """Two pixels wide."""
        steps = int(max(abs(end[0] - start[0]), abs(end[1] - start[1]))) + 1
        for step in range(steps + 1):
            if not dashed or step // 5 % 2 == 0:
                share = step / steps
                x, y = (round(a + share * (b - a)) for a, b in zip(start, end, strict=True))
                self._fill(x, y, x + 2, y + 2, colour)

    def dot(self, middle: tuple[float, float], radius: int, colour: Colour) -> None:
        """A disc."""
        for row in range(-radius, radius + 1):
            half = round((radius**2 - row**2) ** 0.5)
            x, y = round(middle[0]), round(middle[1]) + row
            self._fill(x - half, y, x + half + 1, y + 1, colour)

    def text(self, place: tuple[float, float], words: str, colour: Colour = (0, 0, 0), *, scale: int = 2, ends: bool = False) -> None:
        """Small letters, digits and `% , . - ( )`; `place` is the top left corner, or the top right one where it `ends` there."""
        x, y = round(place[0]) - (len(words) * _WIDE * scale if ends else 0), round(place[1])
        for sign in words:
            for row, bits in enumerate(bytes.fromhex(_GLYPHS.get(sign, ""))):
                for column in range(5):
                    if bits >> (4 - column) & 1:
                        left, top = x + column * scale, y + row * scale
                        self._fill(left, top, left + scale, top + scale, colour)
            x += _WIDE * scale

    def png(self) -> bytes:
        """RGB of 8 bits, as https://www.w3.org/TR/png says."""
        height, width, _ = self._pixels.shape
        rows = np.concatenate([np.zeros((height, 1), np.uint8), self._pixels.reshape(height, width * 3)], axis=1)  # each row unfiltered
        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + _chunk(b"IEND", b"")

    def _fill(self, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        self._pixels[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = colour


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

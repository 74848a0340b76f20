"""Reading a TFLite file's tables where every step is checked.

A file from a stranger may point anywhere. Here each offset is followed only inside the
file, and what is visited, counted once for each visit, may not exceed twice the file:
tables that refer to one another again and again cannot cost more time than honest ones
of the same size. Nothing is copied but numbers.
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

# By the letters of `struct`.
_SCALARS = {letter: struct.Struct(f"<{letter}") for letter in "bB?HiIfQ"}


class DamagedFileError(ValueError):
    """Tables that cannot be a whole file's; the message says what was found."""


def check(condition: Any, found: str) -> None:
    """Raise a `DamagedFileError` that says what was found, unless `condition`."""
    if not condition:
        raise DamagedFileError(found)


class Content:
    """The bytes of a file, and how many more may be visited."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        # Shared names and vtables are honest, so that there is some room.
        self._left = 2 * len(content) + 4096

    def spend(self, size: int) -> None:
        """Count bytes as visited."""
        self._left -= size
        check(self._left >= 0, "tables that refer to one another again and again")

    def number(self, letter: str, position: int) -> Any:
        """The number at a position."""
        scalar = _SCALARS[letter]
        if not 0 <= position <= len(self.content) - scalar.size:
            raise DamagedFileError(
                f"an offset to byte {position} of {len(self.content)}"
            )
        return scalar.unpack_from(self.content, position)[0]

    def root(self) -> "Table":
        """The table that the file begins with."""
        return Table(self, self.number("I", 0))


class Table:
    """A flatbuffer's table.

    Args:
        content: what it lies in.
        position: of its first byte.
        slots: how many fields it may have, or None for any number.
    """

    def __init__(
        self, content: Content, position: int, slots: int | None = None
    ) -> None:
        fields = position - content.number("i", position)
        entries = content.number("H", fields)
        self._size = content.number("H", fields + 2)
        total = len(content.content)
        if not (
            position % 4 == fields % 2 == entries % 2 == 0
            and entries >= 4
            and fields + entries <= total
            and self._size >= 4
            and position + self._size <= total
        ):
            raise DamagedFileError(
                f"a table of {self._size} bytes at byte {position} of {total}"
            )
        content.spend(self._size + 4)
        self.content = content
        self.position = position
        count = entries // 2 - 2
        self._offsets = struct.unpack_from(f"<{count}H", content.content, fields + 4)
        if slots is not None:
            check(not any(self._offsets[slots:]), "fields that are not known")

    def __contains__(self, slot: int) -> bool:
        return slot < len(self._offsets) and self._offsets[slot] != 0

    @property
    def slots(self) -> list[int]:
        """The fields that are there."""
        return [slot for slot, offset in enumerate(self._offsets) if offset]

    def number(self, slot: int, letter: str, default: Any = 0) -> Any:
        """The number in a field."""
        if slot not in self:
            return default
        offset, size = self._offsets[slot], _SCALARS[letter].size
        if offset < 4 or offset + size > self._size:
            raise DamagedFileError(
                f"a field at byte {offset} of a table of {self._size}"
            )
        return self.content.number(letter, self.position + offset)

    def _target(self, slot: int) -> int:
        distance = self.number(slot, "I")
        check(distance >= 4, f"an offset of {distance}")
        return self.position + self._offsets[slot] + distance

    def table(self, slot: int, slots: int | None = None) -> "Table | None":
        """The table that a field points to, or None."""
        if slot not in self:
            return None
        return Table(self.content, self._target(slot), slots)

    def vector(self, slot: int, size: int) -> tuple[int, int]:
        """The position and length of a vector of items of `size` bytes."""
        if slot not in self:
            return 0, 0
        target = self._target(slot)
        count = self.content.number("I", target)
        start, total = target + 4, len(self.content.content)
        if start + count * size > total or start % min(size, 4):
            raise DamagedFileError(
                f"a vector of {count} items at byte {start} of {total}"
            )
        return start, count

    def numbers(self, slot: int, dtype: str) -> np.ndarray:
        """The numbers of a vector, as a view of the file."""
        kind = np.dtype(dtype).newbyteorder("<")
        start, count = self.vector(slot, kind.itemsize)
        self.content.spend(count * kind.itemsize)
        return np.frombuffer(self.content.content, kind, count, start)

    def tables(self, slot: int, slots: int | None, most: int) -> Iterator["Table"]:
        """The tables that a vector points to, `most` at most."""
        start, count = self.vector(slot, 4)
        check(count <= most, f"{count} tables where {most} are too many already")
        self.content.spend(4 * count)
        for place in range(start, start + 4 * count, 4):
            distance = self.content.number("I", place)
            check(distance >= 4, f"an offset of {distance}")
            yield Table(self.content, place + distance, slots)

    def text(self, slot: int) -> memoryview:
        """The bytes of a string, behind which a NUL must stand."""
        start, count = self.vector(slot, 1)
        if start == 0:
            return memoryview(b"")
        self.content.spend(count)
        end = self.content.number("B", start + count)
        check(end == 0, f"a text without its end at byte {start + count}")
        return memoryview(self.content.content)[start : start + count]

"""The byte order of values (PS3.5 §7.3)."""

from __future__ import annotations

import numpy as np

_UNITS = {
    "AT": 2, "OW": 2, "SS": 2, "US": 2,
    "FL": 4, "OF": 4, "OL": 4, "SL": 4, "UL": 4,
    "FD": 8, "OD": 8, "OV": 8, "SV": 8, "UV": 8,
}  # fmt: skip


def unit(vr: str, bits_allocated: int | None = None) -> int:
    """Return how many bytes are swapped together; 1 for a VR that is the same in both orders.

    Pixels of more than 16 bits are stored as OW too, and swapped as a whole: they need `bits_allocated`.
    """
    return max(_UNITS.get(vr, 1), bits_allocated // 8 if vr == "OW" and bits_allocated in {32, 64} else 1)


def swapped(value: bytes, unit: int) -> bytes:
    """Return the bytes with the order within each unit reversed. Bytes after the last whole unit stay as they are."""
    if unit == 1:
        return value
    whole = len(value) // unit * unit
    return np.frombuffer(value, f"u{unit}", whole // unit).byteswap().tobytes() + value[whole:]

"""What the style sheet keeps to."""

from __future__ import annotations

import re
from importlib.resources import files


def test_text_has_one_of_five_sizes():
    style = (files("storage_ledger") / "web" / "static" / "browse.css").read_text()
    sizes = set(re.findall(r"font(?:-size)?: ([0-9.]+(?:rem|px))", style))
    assert sizes == {"15px", ".8rem", ".9rem", "1.1rem", "1.5rem"}

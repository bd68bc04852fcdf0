"""Links that open a study in a viewer: BROWSE_VIEWER_URL, or ours. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

PLACE = "{StudyInstanceUID}"
OURS = f"/ohif/viewer?StudyInstanceUIDs={PLACE}"

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):[!-~]+")
_OF_BROWSERS = re.compile("about|blob|data|file|filesystem|javascript|vbscript|view-source", re.IGNORECASE)
"""Schemes that a browser runs or opens itself, as if this page had written what they hold."""


def checked_template(text: str) -> str:
    """Return the template of a link. Raises `ValueError` with a message for the user.

    Any scheme is allowed that leads to another site or program: each desktop viewer has its own (`weasis:`).
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or _OF_BROWSERS.fullmatch(found[1]):
        raise ValueError("must be an address such as https://… or weasis://…, without spaces")
    rest = text.replace(PLACE, "")
    if rest == text or "{" in rest or "}" in rest:
        raise ValueError(f"must have {PLACE}, and no other braces")
    return text


@dataclass(frozen=True, slots=True)
class Viewer:
    """The settings: `folder` of OHIF's prepared files, `template` of another viewer's address, and the `prefix` of ours."""

    folder: Path | None
    template: str | None
    prefix: str = ""

    def link(self, study_instance_uid: str) -> str | None:
        """Return the address that opens this study; None without a viewer."""
        template = self.template or (self.prefix + OURS if self.folder is not None else None)
        return None if template is None else template.replace(PLACE, quote(study_instance_uid, safe=""))

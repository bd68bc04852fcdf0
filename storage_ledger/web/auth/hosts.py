"""Which host names are ours: a page of another site could make its own name lead here (DNS rebinding), and then read our pages."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from storage_ledger.errors import BadSettings

_HEADER = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]]+))(?::[0-9]*)?")
_NAME = re.compile(r"\*|[a-z0-9_](?:[a-z0-9_.-]{0,252})")


@dataclass(frozen=True, slots=True)
class Hosts:
    """`names`: those of BROWSE_HOSTS; None if not set. `open`: there is no login, so only the name keeps other sites' scripts out."""

    names: frozenset[str] | None
    open: bool

    @classmethod
    def of(cls, setting: str | None, *, is_open: bool) -> Hosts:
        """Parse BROWSE_HOSTS. Raises `BadSettings`."""
        names = None if setting is None else frozenset(setting.lower().split())
        if names is not None and not all(map(_NAME.fullmatch, names)):
            raise BadSettings("bad-settings", "BROWSE_HOSTS: not a list of host names separated by spaces, without ports")
        return cls(names, is_open)

    def include(self, header: str) -> bool:
        """Return whether a Host header names this page. IP addresses pass: no site can make one lead here."""
        if not header:
            return True  # not a browser
        found = _HEADER.fullmatch(header.lower())
        if found is None:
            return False
        name = (found[1] or found[2]).removesuffix(".")
        address = _address(name)
        if name == "localhost" or name.endswith(".localhost") or (address is not None and address.is_loopback):
            return True
        if self.names is not None:
            return name in self.names or "*" in self.names
        return not self.open or address is not None


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None

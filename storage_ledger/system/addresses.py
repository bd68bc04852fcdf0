"""IP addresses of clients. Pure."""

from __future__ import annotations

import ipaddress


def network_of(address: str) -> str:
    """Return the address to count a client by: for IPv6 its /64 network, since one user has all of it."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "elsewhere"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)

"""Answers of several parts: multipart/related (RFC 2387, RFC 2046 §5.1; PS3.18 §8.6.1.2). Written here, as no library streams it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its media type with parameters, further headers, and its bytes in pieces."""

    media_type: str
    pieces: AsyncIterator[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Multipart:
    """A boundary of one's own for each answer, so that no part can contain it by intent or accident."""

    part_type: str
    boundary: str = field(default_factory=lambda: secrets.token_hex(24))

    @property
    def media_type(self) -> str:
        """The Content-Type of the answer; `type` is that of its parts (RFC 2387 §3.1)."""
        return f'multipart/related; type="{self.part_type}"; boundary={self.boundary}'

    def around(self) -> tuple[bytes, bytes, bytes]:
        """Return what is before the first of several parts without headers of their own, between two, and after the last."""
        head = f"--{self.boundary}\r\nContent-Type: {self.part_type}\r\n\r\n".encode()
        return head, b"\r\n" + head, f"\r\n--{self.boundary}--\r\n".encode()

    async def body(self, parts: AsyncIterator[Part]) -> AsyncIterator[bytes]:
        """Yield the answer. If a part fails, so does this: without the last boundary the client knows that the answer is not whole."""
        async for part in parts:
            lines = [
                f"--{self.boundary}",
                f"Content-Type: {part.media_type}",
                *(f"{name}: {value}" for name, value in part.headers.items()),
            ]
            yield ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
            async for piece in part.pieces:
                yield piece
            yield b"\r\n"
        yield f"--{self.boundary}--\r\n".encode()

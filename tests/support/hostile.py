"""Hostile messages: valid ones with something changed, and bytes that are no message at all."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

DEEP = (64, 65, 300, 5_000, 100_000)
NUMBERS = ("1e400", "-1e400", "NaN", "Infinity", "1" * 5_000, "0." + "1" * 5_000, "1e-400", "-0", "9007199254740993", "1E+2147483648")
TEXTS = (
    "\ud800", "\udfff\ud800", "\x00", "\x1b[2J\x07", "\u202e\u2066", "\ufeff", "a\nb\r\nc", "' OR 1=1; DROP TABLE entries; --", "%s%n{0}",
    "<script>alert(1)</script>", "${jndi:ldap://x}", "\u0000" * 300, "é" * 300, "\U0001d54a" * 100,
)  # fmt: skip
PATHS = (
    "", ".", "..", "/", "//", "/app/uploads", "/app/uploads/", "/app/uploads/..", "../../etc/passwd", "/etc/passwd", "/proc/self/mem",
    "/dev/zero",
    "a/../../b", "a/./b", "a//b", "a\x00b", "~/x", "\\..\\x", "/app/uploads/../ledger/ledger.db", "file:///etc/passwd", "a" * 5_000,
    "/".join(["a"] * 2_000), "é" * 200, ".ledger/x", "metadata.json", "/APP/UPLOADS/x", "x/", "-rf", "con", "a\nb", "\ud800.dcm",
)  # fmt: skip
STUDY_IDS = ("", ".", "..", "../x", ".hidden", "a/b", "a" * 129, "a..b", "a\nb", "a b", "é", "-a", "_a", "a\x00", ".ledger", "ledger.db")
WRONG: tuple[Any, ...] = (None, True, 0, -1, 1.5, "", "text", [], [1], {}, {"a": 1}, [[]], [None] * 50)
KEYS = ("study_id", "file_path", "metadata", "validation_details")
GROUPS = ("patient_info", "study_info", "modality_info", "exposure_info", "location_info")


def hostile(rng: random.Random, count: int) -> Iterator[bytes]:
    """Yield `count` messages, cycling through all kinds. Some still parse as events; none names a file that `valid` names."""
    kinds = (_bytes, _flipped, _cut_off, _doubled_keys, _deep, _number, _text, _path, _study_id, _wrong_type, _encoding, _giant)
    for n in range(count):
        yield kinds[n % len(kinds)](rng, n)


def _valid(n: int) -> dict[str, Any]:
    metadata = {group: {"patient_name": "DOE^JANE", "study_id": "S1"} for group in GROUPS}
    return {
        "study_id": f"h{n}",
        "file_path": f"/app/uploads/hostile-{n}.dcm",
        "metadata": metadata,
        "validation_details": {"is_valid": True},
    }


def _dump(value: object) -> bytes:
    return json.dumps(value).encode()  # escapes what UTF-8 cannot hold, such as lone surrogates


def _bytes(rng: random.Random, n: int) -> bytes:
    return rng.randbytes(rng.randrange(0, 400))


def _flipped(rng: random.Random, n: int) -> bytes:
    raw = bytearray(_dump(_valid(n)))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(raw))
        match rng.randrange(4):
            case 0:
                raw[at] ^= 1 << rng.randrange(8)
            case 1:
                raw.insert(at, rng.randrange(256))
            case 2:
                del raw[at]
            case _:
                raw[at:at] = raw[at : at + rng.randrange(1, 40)]
    return bytes(raw)


def _cut_off(rng: random.Random, n: int) -> bytes:
    raw = _dump(_valid(n))
    return raw[: rng.randrange(len(raw))]


def _doubled_keys(rng: random.Random, n: int) -> bytes:
    key = rng.choice(KEYS)
    value = rng.choice([rng.choice(WRONG), rng.choice(PATHS), f"h{n}-again"])
    inside, outside = _dump(_valid(n))[1:-1], _dump({key: value})[1:-1]
    both = [inside, outside] * rng.randrange(1, 3)
    rng.shuffle(both)
    return b"{" + b",".join(both) + b"}"


def _deep(rng: random.Random, n: int) -> bytes:
    depth = rng.choice(DEEP)
    opened, closed = rng.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":[', b"]}]")])
    inner = opened * depth + b"0" + (closed * depth if rng.random() < 0.7 else b"")
    return rng.choice([inner, _dump(_valid(n))[:-1] + b',"deep":' + inner + b"}"])


def _number(rng: random.Random, n: int) -> bytes:
    marked = _valid(n)
    where = rng.choice(["top", "group", "key"])
    if where == "top":
        marked["extra"] = "@"
    elif where == "group":
        marked["metadata"]["exposure_info"]["kvp"] = "@"
    else:
        marked[rng.choice(KEYS)] = "@"
    return _dump(marked).replace(b'"@"', rng.choice(NUMBERS).encode())


def _text(rng: random.Random, n: int) -> bytes:
    text = rng.choice(TEXTS)
    message = _valid(n)
    match rng.randrange(5):
        case 0:
            message["metadata"]["patient_info"][text] = text
        case 1:
            message[text] = text
        case 2:
            message["metadata"][text] = {text: text}
        case 3:
            message["validation_details"] = {text: [text]}
        case _:  # unescaped, so control characters make invalid JSON and lone surrogates invalid UTF-8
            message["metadata"]["patient_info"]["patient_name"] = "@"
            return _dump(message).replace(b"@", text.encode("utf-8", "surrogatepass"))
    return _dump(message)


def _path(rng: random.Random, n: int) -> bytes:
    return _dump({**_valid(n), "file_path": rng.choice(PATHS)})


def _study_id(rng: random.Random, n: int) -> bytes:
    return _dump({**_valid(n), "study_id": rng.choice(STUDY_IDS)})


def _wrong_type(rng: random.Random, n: int) -> bytes:
    message = _valid(n)
    if rng.random() < 0.5:
        message[rng.choice(KEYS)] = rng.choice(WRONG)
    else:
        message["metadata"][rng.choice(GROUPS)] = rng.choice([*WRONG, {"patient_name": rng.choice(WRONG)}])
    return _dump(message)


def _encoding(rng: random.Random, n: int) -> bytes:
    text = json.dumps(_valid(n))
    changes: list[Callable[[], bytes]] = [
        lambda: text.encode("utf-16"),
        lambda: text.encode("utf-32-le"),
        lambda: b"\xef\xbb\xbf" + text.encode(),
        lambda: text.replace("DOE", "D\xd6E").encode("latin-1"),
        lambda: text.encode().replace(b"D", b"\xc1\x84"),  # an overlong encoding
        lambda: text.replace('"', "'").encode(),
        lambda: text.encode() * 2,
        lambda: text.encode() + b"\x00",
        lambda: b" " * 5_000 + text.encode() + b"\n" * 5_000,
        lambda: text.replace(",", ",,", 1).encode(),
        lambda: b"",
        lambda: rng.choice([b"null", b"true", b"0", b'""', b"[]", b"{}", b'"\\ud800"', b"-", b"[,]"]),
    ]
    return rng.choice(changes)()


def _giant(rng: random.Random, n: int) -> bytes:
    size = rng.choice([10_000, 10_000, 60_000, 60_000, 300_000]) if n % 120 else rng.choice([(1 << 20) - 600, 1 << 20, 3 << 20])
    message = _valid(n)
    match rng.randrange(4):
        case 0:
            message["metadata"]["patient_info"]["patient_name"] = "x" * size
        case 1:
            message["x" * size] = 1
        case 2:
            message["many"] = {str(i): i for i in range(size // 12)}
        case _:
            message["list"] = [0] * (size // 3)
    return _dump(message)

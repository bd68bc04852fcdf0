"""Check proofs of a storage-ledger with Python 3.8 or newer alone: python3 verify.py POLICY PROOF... [FILE].

POLICY: the keys that you trust. PROOF: name.tlog-proof. FILE: an archived file; one of the proofs must show its SHA-256.
Exit code 0: all is proved. 1: something is not, and why. 2: POLICY is wrong, a file cannot be read, or an argument is missing.
"""

from __future__ import annotations

import json, re, sys
from base64 import b64decode, b64encode
from hashlib import sha256, sha512
from pathlib import Path
from typing import Any

P, ORDER = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493  # of Ed25519: RFC 8032 section 5.1
D, ROOT = -121665 * pow(121666, -1, P) % P, pow(2, (P - 1) // 4, P)
NUMBER, LINE = "(0|[1-9][0-9]{0,18})", "[^\0-\x1f]+\n"
PROOF = f"c2sp.org/tlog-proof@v1\nextra (.+)\nindex {NUMBER}\n((?:{LINE})*)\n((?:.*\n)+)"
NOTE = f"(({LINE}){NUMBER}\n({LINE})(?:{LINE})*)\n((?:\u2014 [^\\s\0-\x1f+]+ [^\\s]+\n)+)"


class TrustPolicy:  # c2sp.org/tlog-policy
    def __init__(self, text: str) -> None:
        self.keys: dict[tuple[str, bytes], tuple[str, bytes]] = {}  # name and ID of a key -> its witness ("": it is a log's), the key
        self.groups: dict[str, tuple[int, list[str]]] = {"none": (0, [])}  # a witness is a group without members
        self.quorum, used = "", ["none"]
        for word, name, *rest in (line.split() for line in text.split("\n") if line.strip() and line.lstrip()[0] != "#"):
            if word == "log" and len(rest) < 2:
                self.keys.update([key_of(name, 1, "")])
            elif word == "witness" and len(rest) in {1, 2} and name not in self.groups:
                self.keys.update([key_of(rest[0], 4, name)])
                self.groups[name], used = (1, []), [*used, rest[0][-44:]]  # the key itself, under whatever name: it counts once
            elif word == "group" and len(rest) > 1 and name not in self.groups and {*rest[1:]} <= {*self.groups}:
                least = {"all": len(rest) - 1, "any": 1}.get(rest[0]) or int(rest[0])
                least = require(0 < least < len(rest) and least, f"group {name} has fewer members")
                self.groups[name], used = (least, rest[1:]), used + rest[1:]
            else:
                self.quorum = require([word, *rest, self.quorum] == ["quorum", ""] and name in self.groups and name, f"wrong line: {name}")
        require(self.quorum and len({*used}) == len(used), "the policy names no quorum, or a witness counts twice")

    def is_reached(self, name: str, signed: set[str | None]) -> bool:
        return name in signed or sum(self.is_reached(each, signed) for each in self.groups[name][1]) >= self.groups[name][0]

    def checkpoint(self, note: str) -> tuple[int, bytes]:  # c2sp.org/tlog-checkpoint, c2sp.org/tlog-cosignature
        text, origin, size, root, lines = require(re.fullmatch(NOTE, note), "its checkpoint has another form").groups()
        signed: set[str | None] = set()
        for name, signature in ((line.split(" ")[1], decoded(line.split(" ")[2])) for line in lines.split("\n")[:-1]):
            witness, key = self.keys.get((name, signature[:4]), (None, b""))
            if witness or (witness == "" and name == origin[:-1]):
                message = f"cosignature/v1\ntime {int.from_bytes(signature[4:12], 'big')}\n{text}" if witness else text
                require(is_signed(key, message.encode(), signature[12 if witness else 4 :]), f"the signature of {name} is wrong")
                signed.add(witness)
        require("" in signed, "no log of the policy has signed its checkpoint")
        require(self.is_reached(self.quorum, signed), "too few witnesses of the policy have cosigned its checkpoint")
        print("checkpoint:", size, "entries,", root[:-1], "signed by", origin[:-1], *sorted(each for each in signed if each))
        return int(size), decoded(root[:-1])

    def entry(self, proof: str, accepted: dict[str, tuple[int, bytes]]) -> Any:  # c2sp.org/tlog-proof
        data, index, path, note = require(re.fullmatch(PROOF, proof), "it is no proof of an entry, or it is cut off").groups()
        extra = parsed(decoded(data).decode())
        header = parsed(require(extra.get("header"), "its extra data has no header"))
        require(header.get("position") == int(index) + 1, "the index does not fit the entry's position")
        size, root = accepted[note] = accepted.get(note) or self.checkpoint(note)
        leaf, hashes = sha256(b"\0" + extra["header"].encode()).digest(), [decoded(line) for line in path.split("\n")[:-1]]
        require(root_of(leaf, int(index), size, hashes) == root, "the entry is not in the tree that was signed")
        if len(extra) > 1:
            hashed = sha256(bytes.fromhex(extra["salt"]) + extra["payload"].encode()).hexdigest()
            require(len(extra) == 3 and re.fullmatch("[0-9a-f]{32}", extra["salt"]) and hashed == header["payload_sha256"], "wrong payload")
        return {**header, "payload": parsed(extra.get("payload", "null"))}


def root_of(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:  # RFC 9162 section 2.1.1
    if size < 2:
        return require(index == 0 and size == 1 and not path and leaf, "too many hashes, or the entry is newer than the checkpoint")
    require(path and len(path[-1]) == 32, "there are too few hashes")
    left = 1 << (size - 1).bit_length() - 1
    below = root_of(leaf, index, left, path[:-1]) if index < left else root_of(leaf, index - left, size - left, path[:-1])
    return sha256(b"\1" + (below + path[-1] if index < left else path[-1] + below)).digest()


def key_of(vkey: str, kind: int, witness: str) -> tuple[tuple[str, bytes], tuple[str, bytes]]:  # c2sp.org/signed-note
    name, key_id, text = vkey.split("+", 2)
    identity, key = sha256(name.encode() + b"\n" + decoded(text)).digest()[:4], decoded(text)
    return (name, identity), (witness, require([identity.hex(), len(key), key[0]] == [key_id, 33, kind] and key[1:], f"wrong key: {vkey}"))


def is_signed(key: bytes, message: bytes, signature: bytes) -> bool:  # RFC 8032 section 5.1.7
    s, hashed = (int.from_bytes(each, "little") for each in (signature[32:], sha512(signature[:32] + key + message).digest()))
    right = added(point(signature[:32]), multiplied(hashed % ORDER, point(key)))
    return len(signature) == 64 and s < ORDER and multiplied(s, point(b"\x58" + b"\x66" * 31)) == right


def multiplied(number: int, p: tuple[int, int]) -> tuple[int, int]:
    rest = multiplied(number >> 1, added(p, p)) if number else (0, 1)
    return added(rest, p) if number & 1 else rest


def added(p: tuple[int, int], q: tuple[int, int]) -> tuple[int, int]:
    (a, b), (c, d), e = p, q, D * p[0] * p[1] * q[0] * q[1]
    return (a * d + b * c) * (1 - e) * (inverse := pow(1 - e * e, -1, P)) % P, (b * d + a * c) * (1 + e) * inverse % P


def point(data: bytes) -> tuple[int, int]:  # RFC 8032 section 5.1.3
    sign, y = divmod(int.from_bytes(data, "little"), 1 << 255)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = next((x for x in (pow(square, (P + 3) // 8, P) * each % P for each in (1, ROOT)) if x * x % P == square), 0)
    return require(x and y < P and (x if x % 2 == sign else P - x, y), "a key or a signature is no point of the curve")


def require(value: Any, why: str) -> Any:
    if not value:
        raise ValueError(why)
    return value


def decoded(text: str) -> bytes:
    return require(b64encode(b64decode(text, validate=True)).decode() == text and b64decode(text), "Base64 is not canonical")


def parsed(text: str) -> Any:
    canonical = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return require(canonical == text and [json.loads(text)], "JSON is not canonical")[0]


def main(arguments: list[str]) -> int:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # names may have letters that it cannot print
    proofs = [name for name in arguments[1:] if name.endswith(".tlog-proof")]
    try:
        require(proofs and len(arguments) - len(proofs) < 3, __doc__ or "")
        policy, contents = TrustPolicy(Path(arguments[0]).read_bytes().decode()), {each: Path(each).read_bytes() for each in arguments[1:]}
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    code, digests, accepted = 0, set(), {}  # type: int, set[str], dict[str, tuple[int, bytes]]
    for name in sorted(arguments[1:], key=proofs.count, reverse=True):
        try:
            if name in proofs:
                entry = policy.entry(contents[name].decode(), accepted)
                digests.update([entry["payload"]["file"]["sha256"]] if entry["kind"] == "archived" and entry["payload"] else [])
            else:
                require(sha256(contents[name]).hexdigest() in digests, "no proved payload has recorded its SHA-256")
            print(f"proved: {name}", *([entry["kind"], entry["recorded_at"]] if name in proofs else []))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            code = 1
            print(f"NOT PROVED: {name}: {error}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

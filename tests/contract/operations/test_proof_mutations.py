"""verify.py refuses every changed proof, and says why; and it computes Ed25519 as the standard does."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from storage_ledger.domain.canonical_json import dumps, leaf_hash_of
from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.signed_note import ED25519, Signature, SignedNote, VerifierKey
from storage_ledger.operations.prove import verify
from tests.support.proving import CONTENT, STUDY, Proving, Witness

ONE, TWO, THREE = (Witness(f"witness{number}.example/w") for number in (1, 2, 3))
GROUPS = (
    f"witness A {ONE.key.text}",
    f"witness B {TWO.key.text} https://witness2.example/",
    f"witness C {THREE.key.text}",
    "group two-of-three 2 A B C",
    "quorum two-of-three",
)


@pytest.fixture(scope="module")
def proving(tmp_path_factory, ledgers) -> Proving:
    root = tmp_path_factory.mktemp("proving")
    made = Proving(root, ledgers.open(root / "ledger"))
    made.fill()
    made.sign([ONE, TWO])
    return made


@pytest.fixture(scope="module")
def proof(proving) -> str:
    """The proof of the entry that archived the file."""
    return proving.proofs()[1].data.decode()


class Check:
    """Runs verify.py on one proof, and returns its exit code and output."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def __call__(self, policy: str, proof: str | bytes, file: str | None = None) -> tuple[int, str]:
        names = [self.folder / "policy", self.folder / "1.tlog-proof"]
        for name, data in zip(names, (policy, proof), strict=True):
            name.write_bytes(data if isinstance(data, bytes) else data.encode())
        if file is not None:
            names.append(self.folder / "a.dcm")
            names[-1].write_text(file)
        code = verify.main(list(map(str, names)))
        done = self._capsys.readouterr()
        return code, done.out + done.err


@pytest.fixture
def check(tmp_path, capsys) -> Check:
    return Check(tmp_path, capsys)


def test_proof_is_accepted_with_the_log_alone_and_with_a_quorum_of_witnesses(proving, proof, check):
    assert check(proving.policy(), proof, CONTENT)[0] == 0
    code, said = check(proving.policy(*GROUPS), proof, CONTENT)
    assert code == 0, said
    assert "A B" in said
    assert check(proving.policy(*GROUPS[:3], "group in 1 A B", "group out all in C", "quorum in"), proof)[0] == 0
    assert check(proving.policy(*GROUPS[:3], "group in 1 A B", "group out all in C", "quorum out"), proof)[0] == 1


def extra_of(proof: str) -> dict[str, str]:
    return json.loads(base64.b64decode(proof.split("\n")[1].split(" ")[1]))


def with_extra(proof: str, **changes: str | None) -> str:
    extra = {name: value for name, value in (extra_of(proof) | changes).items() if value is not None}
    return in_extra(proof, dumps(extra))


def in_extra(proof: str, text: str) -> str:
    lines = proof.split("\n")
    lines[1] = f"extra {base64.b64encode(text.encode()).decode()}"
    return "\n".join(lines)


def header(proof: str, name: str, value: object) -> str:
    return with_extra(proof, header=dumps(json.loads(extra_of(proof)["header"]) | {name: value}))


def line(proof: str, number: int, change: Callable[[str], str]) -> str:
    lines = proof.split("\n")
    lines[number] = change(lines[number])
    return "\n".join(lines)


def flipped(text: str, at: int = 0) -> str:
    """Change a bit in Base64, so that it stays canonical."""
    data = bytearray(base64.b64decode(text))
    data[at] ^= 1
    return base64.b64encode(data).decode()


def signature(proof: str, number: int, change: Callable[[str], str]) -> str:
    """Change the Base64 of a signature line, counted from the log's own."""
    at = next(i for i, each in enumerate(proof.split("\n")) if each.startswith("\u2014")) + number
    return line(proof, at, lambda text: text[: text.rindex(" ") + 1] + change(text[text.rindex(" ") + 1 :]))


def without(proof: str, number: int) -> str:
    lines = proof.split("\n")
    return "\n".join(lines[:number] + lines[number + 1 :])


def swapped(proof: str) -> str:
    lines = proof.split("\n")
    lines[3], lines[4] = lines[4], lines[3]
    return "\n".join(lines)


def note_line(number: int, change: Callable[[str], str]) -> Callable[[str], str]:
    def changed(proof: str) -> str:
        head, _, note = proof.partition("\n\n")
        return f"{head}\n\n{line(note, number, change)}"

    return changed


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
PROOFS: dict[str, Callable[[str], str | bytes]] = {
    **{f"header: {name}": lambda proof, name=name, value=value: header(proof, name, value) for name, value in {
        "cause": 300, "entry_id": "019b7a5f-2c00-7000-8000-000000000001", "kind": "restored", "payload_sha256": "0" * 64,
        "position": 303, "recorded_at": "2026-01-01T12:00:00.000001Z", "schema": 2, "study_id": "S-other", "version": 1, "more": 1,
    }.items()},
    "header: no object": lambda proof: with_extra(proof, header="[]"),
    "header: spaces": lambda proof: with_extra(proof, header=extra_of(proof)["header"].replace(",", ", ", 1)),
    "header: a key twice": lambda proof: with_extra(proof, header=extra_of(proof)["header"].replace('"schema":1', '"schema":1,"schema":1')),
    "header missing": lambda proof: with_extra(proof, header=None),
    "payload": lambda proof: with_extra(proof, payload=extra_of(proof)["payload"].replace("a.dcm", "b.dcm", 1)),
    "payload missing": lambda proof: with_extra(proof, payload=None),
    "salt": lambda proof: with_extra(proof, salt="00" * 16),
    "salt missing": lambda proof: with_extra(proof, salt=None),
    "salt in capitals": lambda proof: with_extra(proof, salt=extra_of(proof)["salt"].upper()),
    "extra: another field": lambda proof: with_extra(proof, more="1"),
    "payload moved into the salt": lambda proof: with_extra(
        proof, payload=None, salt=extra_of(proof)["salt"] + extra_of(proof)["payload"].encode().hex(), more="1"
    ),
    "extra: a key twice": lambda proof: in_extra(proof, dumps(extra_of(proof))[:-1] + ',"salt":"00"}'),
    "extra: spaces": lambda proof: in_extra(proof, json.dumps(extra_of(proof), sort_keys=True, ensure_ascii=False)),
    "extra: no JSON": lambda proof: in_extra(proof, "{"),
    "extra: not canonical Base64": lambda proof: line(proof, 1, lambda text: text.rstrip("=") + "B" + "=" * text.count("=")),
    "extra missing": lambda proof: without(proof, 1),
    "index": lambda proof: line(proof, 2, lambda _: "index 300"),
    "index with a leading zero": lambda proof: line(proof, 2, lambda _: "index 0301"),
    "index beyond the tree": lambda proof: line(header(proof, "position", 405), 2, lambda _: "index 404"),
    "hash in another spelling": lambda proof: line(proof, 3, lambda text: text[:-2] + ALPHABET[ALPHABET.index(text[-2]) + 1] + "="),
    "hash changed": lambda proof: line(proof, 3, flipped),
    "hashes swapped": swapped,
    "hash removed": lambda proof: without(proof, 3),
    "last hash removed": lambda proof: without(proof, proof.split("\n").index("") - 1),
    "hash added": lambda proof: line(proof, 3, lambda text: f"{text}\n{text}"),
    "hash cut": lambda proof: line(proof, 3, lambda text: base64.b64encode(base64.b64decode(text)[:31]).decode()),
    "origin": note_line(0, lambda text: text.replace("hospital", "hostile")),
    "size": note_line(1, lambda _: "405"),
    "size with a leading zero": note_line(1, lambda _: "0404"),
    "root": note_line(2, flipped),
    "another line in the checkpoint": note_line(2, lambda text: f"{text}\nmore"),
    "signature of the log": lambda proof: signature(proof, 0, lambda text: flipped(text, 40)),
    "signature of the log cut": lambda proof: signature(proof, 0, lambda text: base64.b64encode(base64.b64decode(text)[:-1]).decode()),
    "key ID": lambda proof: signature(proof, 0, flipped),
    "key name": lambda proof: proof.replace("\u2014 hospital", "\u2014 hostile"),
    "cosignature": lambda proof: signature(proof, 1, lambda text: flipped(text, 40)),
    "time of a cosignature": lambda proof: signature(proof, 1, lambda text: flipped(text, 11)),
    "a witness's name": lambda proof: proof.replace(f"\u2014 {ONE.name}", f"\u2014 {THREE.name}"),
    "cosignature missing": lambda proof: re.sub(f"\u2014 {re.escape(ONE.name)}.*\n", "", proof),
    "no signatures": lambda proof: proof[: proof.index("\u2014")],
    "checkpoint missing": lambda proof: proof.partition("\n\n")[0] + "\n\n",
    "cut off": lambda proof: proof[:-20],
    "no last line feed": lambda proof: proof[:-1],
    "CR and LF": lambda proof: proof.replace("\n", "\r\n"),
    "trailing bytes": lambda proof: proof + "x",
    "trailing line feed": lambda proof: proof + "\n",
    "another format": lambda proof: proof.replace("@v1", "@v2"),
    "not UTF-8": lambda proof: proof.encode() + b"\xff\n",
    "empty": lambda _: "",
}  # fmt: skip


@pytest.mark.parametrize("change", PROOFS.values(), ids=PROOFS.keys())
def test_changed_proof_is_not_accepted_and_the_reason_is_said(proving, proof, check, change):
    changed = change(proof)
    assert changed not in {proof, proof.encode()}
    code, said = check(proving.policy(*GROUPS), changed)
    assert code == 1, said
    assert re.search("NOT PROVED: .*: .{6,}", said), said


def impostor(proving: Proving) -> VerifierKey:
    private = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return VerifierKey(proving.keys[0].name, ED25519, private)


POLICIES: dict[str, tuple[int, Callable[[Proving], str]]] = {
    "the log's key is missing": (1, lambda _: "quorum none\n"),
    "the log has another key": (1, lambda proving: f"log {impostor(proving).text}\nquorum none\n"),
    "all witnesses": (1, lambda proving: proving.policy(*GROUPS[:3], "group all-of-them all A B C", "quorum all-of-them")),
    "a witness that did not sign": (1, lambda proving: proving.policy(GROUPS[2], "quorum C")),
    "more than the group has": (2, lambda proving: proving.policy(*GROUPS[:3], "group G 4 A B C", "quorum G")),
    "none of a group": (2, lambda proving: proving.policy(*GROUPS[:3], "group G 0 A B C", "quorum G")),
    "a group of nobody": (2, lambda proving: proving.policy("group G any", "quorum G")),
    "a group of an unknown name": (2, lambda proving: proving.policy(GROUPS[0], "group G any A X", "quorum G")),
    "`none` in a group": (2, lambda proving: proving.policy(GROUPS[0], "group G any none A", "quorum G")),
    "a witness twice in a group": (2, lambda proving: proving.policy(GROUPS[0], "group G 2 A A", "quorum G")),
    "a witness in two groups": (2, lambda proving: proving.policy(*GROUPS[:3], "group G any A B", "group H all G A", "quorum H")),
    "a key under two names": (2, lambda proving: proving.policy(GROUPS[0], f"witness B {ONE.key.text}", "group G all A B", "quorum G")),
    "a name twice": (2, lambda proving: proving.policy(GROUPS[0], f"witness A {TWO.key.text}", "quorum A")),
    "no quorum": (2, lambda proving: proving.policy("")),
    "two quorums": (2, lambda proving: proving.policy("quorum none", "quorum none")),
    "an unknown quorum": (2, lambda proving: proving.policy("quorum A")),
    "an unknown line": (2, lambda proving: proving.policy("trust everybody", "quorum none")),
    "a line of one word": (2, lambda proving: proving.policy("quorum")),
    "a key with a wrong ID": (2, lambda proving: proving.policy().replace(proving.keys[0].key_id.hex(), "00000000")),
    "a log's key as a witness's": (2, lambda proving: proving.policy(f"witness A {proving.keys[0].text}", "quorum A")),
    "a witness's key as a log's": (2, lambda _: f"log {ONE.key.text}\nquorum none\n"),
    "no key": (2, lambda _: "log x\nquorum none\n"),
}


@pytest.mark.parametrize(("code", "policy"), POLICIES.values(), ids=POLICIES.keys())
def test_proof_is_not_accepted_by_a_policy_that_asks_for_more_or_is_wrong(proving, proof, check, code, policy):
    found, said = check(policy(proving), proof)
    assert found == code, said
    assert len(said) > 12


def test_policy_may_have_comments_tabs_and_addresses(proving, proof, check):
    spaced = proving.policy(*GROUPS).replace(" ", "\t ").replace("quorum", "# which?\n\n  \t\n\t quorum")
    assert check(spaced, proof)[0] == 0


@pytest.mark.parametrize("file", [CONTENT + "\0", CONTENT[:-1], ""], ids=["one byte more", "one less", "empty"])
def test_other_file_than_the_archived_one_is_not_proved(proving, proof, check, file):
    code, said = check(proving.policy(), proof, file)
    assert code == 1
    assert "a.dcm: no proved payload" in said


def test_file_is_not_proved_by_the_proof_of_another_entry_or_without_a_payload(proving, check):
    assert check(proving.policy(), proving.proofs()[0].data, CONTENT)[0] == 1
    assert check(proving.policy(), proving.proofs(with_payload=False)[1].data, CONTENT)[0] == 1
    assert check(proving.policy(), proving.proofs(with_payload=False)[1].data)[0] == 0


def test_missing_file_and_missing_arguments_are_no_verdict(proving, proof, check, capsys):
    check(proving.policy(), proof)
    names = [str(check.folder / name) for name in ("policy", "1.tlog-proof", "missing.dcm", "missing.tlog-proof")]
    for wrong in ([], names[:1], [names[0], names[0]], names[:3], [names[0], names[3]], [*names[:2], names[0], names[0]]):
        assert verify.main(wrong) == 2, wrong
    capsys.readouterr()


def test_proof_is_accepted_whatever_letters_its_name_has_and_the_output_lacks(proving, proof, tmp_path):
    (tmp_path / "policy").write_text(proving.policy())
    (tmp_path / "Иванов\udcff.tlog-proof").write_text(proof)
    command = [sys.executable, verify.__file__, "policy", "Иванов\udcff.tlog-proof"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": "cp1252"}, capture_output=True, check=False)
    assert done.returncode == 0, done
    assert b"proved: \\u0418" in done.stdout


def test_two_checkpoints_in_one_bundle_are_both_checked(proving, proof, check, tmp_path):
    later = proving.covering()
    forged = proof.replace("\n404\n", "\n405\n")
    (tmp_path / "2.tlog-proof").write_text(forged)
    check(proving.policy(), proof)
    names = [str(tmp_path / name) for name in ("policy", "1.tlog-proof", "2.tlog-proof")]
    assert later.checkpoint.size == 404
    assert verify.main(names) == 1


def of_one_entry(position: int, origin: str = "log.example") -> tuple[str, str]:
    """Return a policy, and a proof by its log: of a tree of one entry, whose position it may give wrongly, under any origin."""
    private = Ed25519PrivateKey.generate()
    key = VerifierKey("log.example", ED25519, private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    header = dumps({"position": position, "kind": "described", "recorded_at": ""})
    text = Checkpoint(origin, 1, leaf_hash_of(header.encode())).text
    note = SignedNote(text, (Signature(key.name, key.key_id, private.sign(text.encode())),)).data.decode()
    return f"log {key.text}\nquorum none\n", in_extra(f"c2sp.org/tlog-proof@v1\n\nindex 0\n\n{note}", dumps({"header": header}))


def test_log_that_signs_an_entry_at_another_position_or_under_another_name_is_not_believed(check):
    assert check(*of_one_entry(1))[0] == 0
    assert check(*of_one_entry(2))[0] == 1
    assert check(*of_one_entry(1, "other.example"))[0] == 1


def test_ed25519_agrees_with_openssl():
    for number in range(8):
        private = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        message = b"x" * number
        signed = private.sign(message)
        assert verify.is_signed(public, message, signed)
        assert not verify.is_signed(public, message + b"y", signed)
        assert not verify.is_signed(public, message, signed + b"\0")
        assert not verify.is_signed(public, message, signed[:32] + (int.from_bytes(signed[32:], "little") ^ 1).to_bytes(32, "little"))
        beyond = int.from_bytes(signed[32:], "little") + verify.ORDER
        assert not verify.is_signed(public, message, signed[:32] + beyond.to_bytes(32, "little")), "S must be below the order"
    with pytest.raises(ValueError, match="no point"):
        verify.is_signed(b"\x02" + bytes(31), b"", bytes(64))
    assert verify.point((3).to_bytes(32, "little"))
    with pytest.raises(ValueError, match="no point"):
        verify.point((verify.P + 3).to_bytes(32, "little"))


def test_program_is_short_and_needs_nothing_but_python():
    source = Path(verify.__file__).read_text()
    assert len([line for line in source.splitlines() if line.strip()]) < 120
    imported = ", ".join(re.findall(r"^(?:import|from) ([\w, ]+?)(?: import .*)?$", source, re.MULTILINE)).split(", ")
    assert set(imported) == {"__future__", "base64", "hashlib", "json", "pathlib", "re", "sys", "typing"}


def test_signature_of_an_unknown_key_is_ignored(proving, proof, check):
    stranger = Signature("stranger.example/x", b"1234", bytes(64)).line
    assert check(proving.policy(), proof + stranger)[0] == 0
    assert STUDY in extra_of(proof)["header"]

"""Signed notes and checkpoints as text: the published example, and what is refused."""

from __future__ import annotations

import pytest

from storage_ledger.domain.checkpoint import Checkpoint, cosigned
from storage_ledger.domain.signed_note import Signature, SignedNote, VerifierKey

KEY = "storage-ledger/9d4ddd97-1a03-4bc2-a9fd-03ca72b70ef4+c5f80879+AdwoscKDipn7HnS1lhVODYzf+ymMYtOdrNpB6WOBB0xP"
NOTE = (
    "storage-ledger/9d4ddd97-1a03-4bc2-a9fd-03ca72b70ef4\n2\nqUyS0Qhw6kw4ShxXkZkJKBRH31ul9B2UvOY4Oj8Oygc=\n\n"
    "— storage-ledger/9d4ddd97-1a03-4bc2-a9fd-03ca72b70ef4 "
    "xfgIeasdjrKM8wKp2HhaDqgdwuAP2upLRnjcwpMtcnCqQG/3HWMkO+avtt8TjKQYdfmhglrETrsw8ww6TOLBF+Er3QM=\n"
).encode()


def test_note_is_read_and_written_again_byte_for_byte():
    note = SignedNote.parse(NOTE)
    assert note.data == NOTE
    assert Checkpoint.parse(note.text).text == note.text
    key = VerifierKey.parse(KEY)
    assert key.text == KEY
    assert note.signatures[0].is_by(key)
    assert not note.signatures[0].is_by(VerifierKey("other", key.type, key.public_key))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a\n",
        NOTE[:-1],
        NOTE.replace(b"\n\n", b"\n"),
        NOTE.replace(b"\n", b"\r\n"),
        NOTE.replace("—".encode(), b"-"),
        NOTE.replace(b"\n2\n", b"\n2\t\n"),
        NOTE + b"\xff\n",
        NOTE + b"\n",
        NOTE.replace(b"xfgI", b"xfg"),
        NOTE.replace(b"3QM=", b"3QN="),
        NOTE * 1000,
    ],
)
def test_what_is_not_a_signed_note_is_refused(data):
    with pytest.raises(ValueError, match=r"."):
        SignedNote.parse(data)


@pytest.mark.parametrize("text", ["", "a\n1\n", "a\n01\nAAAA\n", "a\n-1\nAAAA\n", "a\n1\nAAAA\n", "\n1\n" + "A" * 43 + "=\n", "a\n1\nx\n"])
def test_what_is_not_a_checkpoint_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        Checkpoint.parse(text)


@pytest.mark.parametrize(
    "text", ["", "a", "a+b", "a+00000000+AQ==", KEY.replace("c5f8", "c5f9"), KEY.replace("storage", "sto rage"), KEY + "="]
)
def test_what_is_not_a_verifier_key_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        VerifierKey.parse(text)


@pytest.mark.parametrize("line", ["", "— a", "— a AAAA", "— a+b AAAAAAAAAAAA", "-- a AAAAAAAAAAAA", "— a AAAA AAAA"])
def test_what_is_not_a_signature_is_refused(line):
    with pytest.raises(ValueError, match=r"."):
        Signature.parse(line)


def test_a_checkpoint_belongs_to_its_ledger_under_any_prefix():
    assert Checkpoint("a/b/1", 1, bytes(32)).is_of("1")
    assert not Checkpoint("a/1/b", 1, bytes(32)).is_of("1")


def test_a_witness_signs_the_text_with_its_time():
    assert cosigned(7, "a\n1\nx\n") == b"cosignature/v1\ntime 7\na\n1\nx\n"

"""Witnesses in settings and policies, and the request that one gets."""

from __future__ import annotations

import pytest

from storage_ledger.domain.signed_note import VerifierKey
from storage_ledger.domain.witnesses import Submission, Witness, quorum, read_logs, read_size, read_witnesses

ONE = VerifierKey("hospital-b.example/w", 4, bytes(32))
TWO = VerifierKey("hospital-c.example/w", 4, bytes([1] * 32))
LOG = VerifierKey("hospital-a.example/log", 1, bytes(32))


def test_witnesses_are_keys_and_urls_separated_by_commas():
    text = f"{ONE.text} https://b.example/witness/ ,\n{TWO.text}  http://[::1]:8005,"
    assert read_witnesses(text) == [Witness(ONE, "https://b.example/witness"), Witness(TWO, "http://[::1]:8005")]
    assert read_witnesses(" ") == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("https://b.example", "number 1 does not begin with a verifier key"),
        (f"{ONE.text} http://b, {LOG.text} http://a", "number 2 is not the key of a witness"),
        (VerifierKey("none", 4, bytes(32)).text + " http://b", "number 1 is not the key of a witness"),
        (ONE.text, "number 1 is not a verifier key and a URL"),
        (f"{ONE.text} http://b {TWO.text} http://c", "number 1 is not a verifier key and a URL"),
        (f"{ONE.text} http://b, {ONE.text} http://c", "number 2 has the name or the key of an earlier one"),
        (f"{ONE.text} http://b, {VerifierKey('x', 4, bytes(32)).text} http://c", "number 2 has the name or the key of an earlier one"),
    ],
)
def test_what_is_no_witness_is_named_by_its_number(text, fault):
    with pytest.raises(ValueError, match=fault):
        read_witnesses(text)


def test_policy_asks_for_one_of_the_witnesses():
    assert quorum([]) == ["quorum none"]
    assert quorum([Witness(ONE, "http://b"), Witness(TWO, "http://c")]) == [
        f"witness hospital-b.example/w {ONE.text} http://b",
        f"witness hospital-c.example/w {TWO.text} http://c",
        "group witnesses any hospital-b.example/w hospital-c.example/w",
        "quorum witnesses",
    ]


def test_logs_of_a_policy_are_found_with_and_without_a_url():
    policy = f"# log comment\nlog {LOG.text}\n\tlog\t{ONE.text} http://x\nlog\nwitness log {TWO.text}\nquorum none\n"
    assert read_logs(policy) == [LOG.text, ONE.text]


@pytest.mark.parametrize("hashes", [0, 1, 63])
def test_submission_is_written_and_read_again(hashes):
    asked = Submission(7, tuple(bytes([i] * 32) for i in range(hashes)), b"text\n\n\xe2\x80\x94 x y\n")
    assert Submission.parse(asked.data) == asked


def test_submission_is_the_example_of_the_specification():
    lines = [b"old 20852014", b"PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=", b"jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk="]
    read = Submission.parse(b"\n".join([*lines, b"", b"example.com/behind-the-sofa\n20852163\n"]))
    assert (read.old, len(read.proof), read.note) == (20_852_014, 2, b"example.com/behind-the-sofa\n20852163\n")


@pytest.mark.parametrize(
    ("body", "size"), [(b"7\n", 7), (b"0\n", 0), (b"7", 7), (b"07\n", None), (b"", None), (b"-1\n", None), (b"\xff", None)]
)
def test_size_in_an_answer_is_decimal_or_none(body, size):
    assert read_size(body) == size

"""`storage-ledger witness` over HTTP: the answers that the specification asks for, from ours and from a stranger's; and what survives."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.merkle_tree import Tree
from storage_ledger.domain.signed_note import SignedNote
from storage_ledger.domain.witnesses import Submission
from storage_ledger.ledger.proof.cosignatures import cosigned_at
from tests.recovery.tracing import attach, needs_strace
from tests.support.judges import judge
from tests.support.witnesses import AicsWitness, Log, OurWitness

LOG = Log()
KEY = LOG.key.verifier


@pytest.fixture(scope="module")
def http_client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture(scope="module", params=[OurWitness, AicsWitness], ids=["ours", "aics-witness"])
def shared_witness(request, tmp_path_factory):
    """One for all cases: each has a log of its own."""
    logs = [Log(f"hospital-a.example/{number}").key.verifier for number in range(20)]
    witness = request.param(tmp_path_factory.mktemp("witness"), logs)
    yield witness.start()
    witness.close()


@pytest.fixture
def witness(tmp_path) -> Iterator[OurWitness]:
    with contextlib.closing(OurWitness(tmp_path, [KEY])) as found:
        yield found.start()


def add(client: httpx.Client, witness, body: bytes) -> httpx.Response:
    return client.post(f"{witness.url}/add-checkpoint", content=body)


def is_cosigned(witness, note: bytes, answer: str) -> bool:
    found = SignedNote.parse(note + answer.encode())
    return cosigned_at(found.text, found.signatures, witness.key) is not None


def newest_size(client: httpx.Client, witness, log: Log) -> int:
    return Checkpoint.parse(SignedNote.parse(client.get(f"{witness.url}/{log.key.verifier.origin_hash}/checkpoint").content).text).size


def forged(note: bytes) -> bytes:
    """The note with another root, and the signature of the old one."""
    text, _, signatures = note.partition(b"\n\n")
    root = text.splitlines()[2]
    return text.replace(root, b"A" * 43 + b"=") + b"\n\n" + signatures


CASES = {
    "first checkpoint": (0, lambda log: log.submission(0, 5), 200),
    "grown": (1, lambda log: log.submission(3, 300), 200),
    "the same again": (2, lambda log: log.submission(3, 3), 200),
    "another old size": (3, lambda log: log.submission(2, 5), 409),
    "old size above the checkpoint's": (4, lambda log: Submission(9, (), log.note(5)).data, 400),
    "unknown log": (5, lambda _: Log("elsewhere.example/log").submission(0, 5), 404),
    "another key": (6, lambda log: Log(log.key.name, key=LOG.key.private).submission(3, 5), 403),
    "forged signature": (7, lambda log: Submission(3, log.grown(5).proof(3, 5), forged(log.note(5))).data, 403),
    "wrong proof": (8, lambda log: Submission(3, (bytes(32),), log.note(5)).data, 422),
    "another history": (9, lambda log: log.fork(2).submission(3, 5), 422),
    "another root of the same size": (10, lambda log: log.fork(2).submission(3, 3), 422),
    "proof from nothing": (11, lambda log: Submission(0, (bytes(32),), log.note(5)).data, 422),
    "no blank line": (12, lambda log: log.submission(3, 5).replace(b"\n\n", b"\n"), 400),
    "64 hashes": (13, lambda log: Submission(3, (bytes(32),) * 64, log.note(5)).data, 400),
    "leading zero": (14, lambda log: log.submission(3, 5).replace(b"old 3", b"old 03"), 400),
}


@pytest.mark.parametrize("case", CASES)
def test_each_answer_is_the_one_of_the_specification(case, shared_witness, http_client):
    number, body, code = CASES[case]
    log = Log(f"hospital-a.example/{number}")
    if case not in {"first checkpoint", "proof from nothing"}:
        assert add(http_client, shared_witness, log.submission(0, 3)).status_code == 200
    request = body(log)
    answer = add(http_client, shared_witness, request)
    assert answer.status_code == code
    note = Submission.parse(request).note if code in {200, 409, 422} else b""
    if code == 200:
        assert is_cosigned(shared_witness, note, answer.text)
        shown = http_client.get(f"{shared_witness.url}/{log.key.verifier.origin_hash}/checkpoint")
        assert SignedNote.parse(shown.content) == SignedNote.parse(note + answer.content)
    if code == 409:
        assert (answer.text, answer.headers["content-type"]) == ("3\n", "text/x.tlog.size")
    if code == 422 and case != "proof from nothing":
        assert log.key.name in shared_witness.evidence()
    if code != 200 and case != "proof from nothing":
        assert newest_size(http_client, shared_witness, log) == 3


STRANGERS_CLIENT = """
import json, sys
from aics_witness.feeder import WitnessClient, WitnessRejected
url, vkey, submissions = json.load(sys.stdin)
client = WitnessClient(url, vkey)
for note, proofs in submissions:
    try:
        print("cosigned", client.submit(note, lambda old, new: [bytes.fromhex(each) for each in proofs[str(old)]]).count(chr(8212)))
    except WitnessRejected as error:
        print("rejected", error.status)
"""


def test_a_strangers_client_has_its_checkpoints_cosigned_and_hears_of_another_history(witness, http_client):
    """It verifies each cosignature and its time itself."""
    python = judge("aics-witness==0.1.0", oldest=(3, 12)) / "python"

    def submission(log: Log, old: int, new: int) -> tuple[str, dict[str, list[str]]]:
        note = log.note(new).decode()
        return note, {str(each): [hashed.hex() for hashed in log.proof(each, new)] for each in (0, old)}

    log = Log()
    assert add(http_client, witness, log.submission(0, 2)).status_code == 200, "it learns of this from a 409"
    submissions = [submission(log, 2, 300), submission(log, 300, 300), submission(log, 300, 777), submission(log.fork(5), 777, 800)]
    job = json.dumps([witness.url, witness.key.text, submissions])
    heard = subprocess.run([python, "-I", "-c", STRANGERS_CLIENT], input=job, capture_output=True, text=True, timeout=60, check=False)
    assert heard.stdout.splitlines() == ["cosigned 1", "cosigned 1", "cosigned 1", "rejected 422"], heard.stderr
    assert newest_size(http_client, witness, log) == 777


ODD = {
    "nothing": b"",
    "zeros": bytes(100),
    "no UTF-8": b"old 0\n\n\xff\xfe\n1\n\n\xe2\x80\x94 a AAAA\n",
    "no signature": b"old 0\n\na/b\n1\nAAAA\n\n",
    "a huge size": b"old 0\n\n" + LOG.note(3).replace(b"\n3\n", b"\n9999999999999999999\n"),
    "a negative size": b"old -1\n\n" + LOG.note(3),
    "superscript": "old ²\n\n".encode() + LOG.note(3),
    "a short hash": b"old 1\nAAAA\n\n" + LOG.note(3),
    "hash with a space": b"old 1\n " + b"A" * 43 + b"=\n\n" + LOG.note(3),
    "carriage returns": LOG.submission(0, 3).replace(b"\n", b"\r\n"),
    "no line feed at the end": LOG.submission(0, 3)[:-1],
    "a control character": LOG.submission(0, 3).replace(b"hospital", b"hosp\x07ital"),
    "a root of 31 bytes": b"old 0\n\n" + SignedNote(f"{KEY.name}\n3\n{'A' * 42}=\n", (LOG.key.sign("x"),)).data,
    "sizes above 2^63": Submission(0, (), SignedNote(t := f"{KEY.name}\n9999999999999999999\n{'A' * 43}=\n", (LOG.key.sign(t),)).data).data,
}


def test_odd_requests_get_400_and_change_nothing(witness, http_client):
    codes = {name: add(http_client, witness, body).status_code for name, body in ODD.items()}
    assert {name: code for name, code in codes.items() if code != 400} == {"a huge size": 403}, "its signature is wrong first"
    assert add(http_client, witness, bytes(100_000)).status_code == 413
    assert [http_client.get(witness.url + path).status_code for path in ("/add-checkpoint", "/x/checkpoint", "/", "/healthz")] == [
        405,
        404,
        404,
        200,
    ]
    assert http_client.get(f"{witness.url}/{KEY.origin_hash}/checkpoint").status_code == 404
    assert add(http_client, witness, LOG.submission(0, 3)).status_code == 200


def test_size_zero_is_cosigned_only_with_the_root_of_the_empty_tree(witness, http_client):
    text = Checkpoint(KEY.name, 0, bytes(32)).text
    assert add(http_client, witness, Submission(0, (), SignedNote(text, (LOG.key.sign(text),)).data).data).status_code == 422
    text = Checkpoint(KEY.name, 0, Tree().root()).text
    assert add(http_client, witness, Submission(0, (), SignedNote(text, (LOG.key.sign(text),)).data).data).status_code == 200
    assert add(http_client, witness, LOG.submission(0, 3)).status_code == 200


def test_of_two_histories_at_once_only_one_is_cosigned(witness, http_client):
    add(http_client, witness, LOG.submission(0, 3))
    logs = [LOG, LOG.fork(3), LOG.fork(3, seed="third")]
    bodies = [log.submission(3, size) for log in logs for size in (5, 6, 7)]
    together = threading.Barrier(len(bodies))

    def ask(body: bytes) -> int:
        with httpx.Client(trust_env=False, timeout=20) as client:
            together.wait()
            return add(client, witness, body).status_code

    with ThreadPoolExecutor(len(bodies)) as pool:
        assert sorted(pool.map(ask, bodies))[:2] == [200, 409]


def test_it_remembers_after_a_stop_and_after_a_kill(witness, http_client):
    key = witness.key
    for again in (witness.stop, witness.kill):
        size = 3 if again == witness.stop else 5
        assert add(http_client, witness, LOG.submission({3: 0, 5: 3}[size], size)).status_code == 200
        again()
        witness.start()
        assert add(http_client, witness, LOG.submission(0, 9)).text == f"{size}\n"
        assert add(http_client, witness, LOG.fork(2).submission(size, 9)).status_code == 422
    assert witness.key == key
    assert witness.evidence().count("Refused:") == 2


def test_killed_as_it_sends_the_cosignature_it_knows_what_it_has_cosigned(witness, http_client, tmp_path):
    needs_strace()
    add(http_client, witness, LOG.submission(0, 3))
    kill = ["-f", "-o", str(tmp_path / "trace"), "-e", "signal=none", "-e", "trace=sendto", "-e", "inject=sendto:signal=SIGKILL:when=1"]
    tracer = attach(witness.process.pid, kill)
    with pytest.raises(httpx.TransportError):
        add(http_client, witness, LOG.submission(3, 5))
    assert witness.process.wait(30) == -9
    tracer.wait(30)
    tracer.stderr.close()
    witness.start()
    assert add(http_client, witness, LOG.submission(3, 5)).text == "5\n"
    assert add(http_client, witness, LOG.fork(2).submission(5, 5)).status_code == 422
    assert add(http_client, witness, LOG.submission(5, 5)).status_code == 200


def test_killed_at_any_time_it_never_cosigns_what_it_then_forgets(witness, http_client):
    """Kill it while it answers: whatever was cosigned, or could have been, is the least that it remembers."""
    size = 3
    add(http_client, witness, LOG.submission(0, size))
    for after in range(4):
        sent = threading.Event()

        def ask(body: bytes, sent: threading.Event = sent) -> int:
            with httpx.Client(trust_env=False, timeout=20) as client, contextlib.suppress(httpx.TransportError):
                sent.set()
                return add(client, witness, body).status_code
            return 0

        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(ask, LOG.submission(size, size + 1))
            sent.wait()
            for _ in range(after):
                http_client.get(f"{witness.url}/healthz")
            witness.kill()
            code = answer.result()
        witness.start()
        known = newest_size(http_client, witness, LOG)
        assert known in ({size + 1} if code == 200 else {size, size + 1})
        assert add(http_client, witness, LOG.fork(2).submission(known, known + 5)).status_code == 422
        size = known


@pytest.mark.parametrize(
    ("lost", "code"),
    [("witness.db", "witness-records-missing"), ("witness.key", "witness-key-missing"), ("name", "witness-key-wrong")],
)
def test_without_its_key_or_its_records_it_does_not_start(lost, code, witness, http_client):
    add(http_client, witness, LOG.submission(0, 3))
    witness.stop()
    if lost == "name":
        witness._arguments[1] = "another.example/w"
    else:
        for file in witness.data.glob(f"{lost}*"):
            file.unlink()
    witness.start()
    assert witness.process.wait(30) == 2
    assert code in witness.log.read_text()


def test_it_prints_its_line_of_a_policy_and_keeps_its_key_to_itself(witness):
    assert f"witness hospital-b.example/w {witness.key.text} http://127.0.0.1:{witness.port}\n" in witness.log.read_text()
    assert (witness.data / "witness.key").stat().st_mode & 0o777 == 0o400
    assert witness.stop() == 0


def test_a_log_may_have_two_keys_during_a_rotation(tmp_path, http_client):
    new = Log(KEY.name, key=Log("next").key.private)
    with contextlib.closing(OurWitness(tmp_path, [KEY, new.key.verifier])) as witness:
        witness.start()
        assert add(http_client, witness, LOG.submission(0, 3)).status_code == 200
        assert add(http_client, witness, new.submission(3, 5)).status_code == 200

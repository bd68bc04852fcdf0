"""Checkpoints that are taken outside: to witnesses over real HTTP, to `openssl ts`, to programs; and what happens when these fail."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import rfc3161_client as client

from storage_ledger.domain.signed_note import SignedNote
from storage_ledger.domain.witnesses import Submission, Witness
from storage_ledger.errors import Retryable
from storage_ledger.ledger.proof import keys
from storage_ledger.ledger.proof.cosignatures import cosign, cosigned_at, cosigner
from storage_ledger.ledger.proof.keys import SigningKey
from storage_ledger.ledger.proof.tree_hashes import BlockFile
from storage_ledger.operations.heads.heads import Heads
from storage_ledger.operations.heads.keeper import Keeper
from storage_ledger.operations.heads.place import Head, Place
from storage_ledger.operations.heads.program import Program
from storage_ledger.operations.heads.signed_head import read_head
from storage_ledger.operations.heads.time_stamps import TimeStamps
from storage_ledger.operations.heads.witness_client import ConsistencyProofs, WitnessClient
from storage_ledger.system.http_post import post
from storage_ledger.system.metrics import Metrics
from storage_ledger.witness.records import Records
from storage_ledger.witness.server import RECORDS
from tests.support.checkpoint_scene import Scene
from tests.support.scripted_server import ScriptedServer
from tests.support.time_stamping import Authority
from tests.support.valkey import free_port
from tests.support.waiting import until
from tests.support.witnesses import Log, listening

ORIGIN = "hospital.example"


class Outside:
    """A scene with its places outside; `look` as the thread does, once the last failure is long past."""

    def __init__(self, root: Path, ledgers, clock) -> None:
        self.scene = Scene(root, ledgers, clock)
        self.metrics = Metrics()
        self.now = 0.0
        self.keeper = Keeper(self.scene.folder, root / "checkpoint.lock")
        self.signer = self.scene.signer(ORIGIN)
        self.heads: Heads | None = None

    @property
    def log(self) -> Log:
        """Whoever has the key."""
        origin = f"{ORIGIN}/{self.scene.ledger.ledger_id}"
        key = keys.load(self.scene.key, origin)
        assert key is not None
        return Log(origin, key=key.private)

    def client(self, witness: Witness) -> WitnessClient:
        proofs = ConsistencyProofs(self.scene.ledger, BlockFile(self.scene.root / "tree.cache", self.scene.ledger.ledger_id))
        return WitnessClient(witness, self.keeper, proofs.of)

    def program(self, *command: str, within_s: float = 30) -> Program:
        return Program(command, self.scene.folder, self.scene.root / "checkpoint.exec", within_s=within_s)

    def begin(self, *places: Place) -> None:
        latest = self.scene.root / "checkpoint.latest"
        read = lambda note: read_head(self.scene.ledger, note)  # noqa: E731
        newest = lambda: latest.read_bytes() if latest.exists() else None  # noqa: E731
        self.heads = Heads(lambda: places, newest, read, self.metrics, monotonic=lambda: self.now)

    def sign(self, count: int = 1) -> int:
        self.scene.append(count)
        signed = self.scene.sign(self.signer)
        assert signed is not None
        return signed.size

    def look(self, stop: threading.Event | None = None) -> None:
        self.now += 3600
        self.heads.look(stop or threading.Event())

    def metric(self, name: str, place: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"storage_ledger_checkpoint_{name}", {"place": place, **labels})

    def failures(self, place: str) -> dict[str, float]:
        return {
            sample.labels["code"]: sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "storage_ledger_checkpoint_outside_failures_total" and sample.labels["place"] == place
        }

    def is_cosigned(self, size: int, witness: Witness) -> bool:
        note = SignedNote.parse(self.scene.folder.joined(size))
        return cosigned_at(note.text, note.signatures, witness.key) is not None


@pytest.fixture
def outside(tmp_path, ledgers, clock) -> Outside:
    found = Outside(tmp_path, ledgers, clock)
    found.sign(3)
    return found


PLACE = "witness hospital-b.example/w"


def test_each_new_checkpoint_is_cosigned_and_the_signature_kept_beside_it(outside, tmp_path):
    with listening(tmp_path / "w", [outside.log.key.verifier]) as witness:
        outside.begin(outside.client(witness))
        for count in (0, 300, 1, 700):
            size = outside.sign(count)
            outside.look()
            assert outside.is_cosigned(size, witness)
            assert outside.metric("outside_entries", PLACE) == size
    assert outside.failures(PLACE) == {}
    assert outside.heads.reasons() == []


def test_a_checkpoint_that_is_cosigned_is_not_sent_again_not_even_after_a_restart(outside, tmp_path):
    with listening(tmp_path / "w", [outside.log.key.verifier]) as witness:
        outside.begin(outside.client(witness))
        outside.look()
    outside.look()
    outside.begin(outside.client(witness))
    outside.look()
    assert outside.failures(PLACE) == {}, "nobody listens there any more"


def test_a_witness_that_was_away_gets_the_newest_checkpoint_only(outside, tmp_path):
    port = free_port()
    with listening(tmp_path / "w", [outside.log.key.verifier], port) as witness:
        outside.begin(outside.client(witness))
        outside.look()
    sizes = [outside.sign(100), outside.sign(300)]
    for _ in range(2):
        outside.look()
    assert outside.failures(PLACE) == {"witness-away": 2}
    assert outside.metric("outside_waiting_seconds", PLACE) == 3600
    with listening(tmp_path / "w", [outside.log.key.verifier], port):
        outside.look()
    assert [outside.is_cosigned(size, witness) for size in sizes] == [False, True]
    assert outside.metric("outside_waiting_seconds", PLACE) == 0


def test_after_a_restart_the_witness_says_what_it_has(outside, tmp_path):
    with listening(tmp_path / "w", [outside.log.key.verifier]) as witness:
        for count in (1, 500):
            outside.begin(outside.client(witness))
            size = outside.sign(count)
            outside.look()
            assert outside.is_cosigned(size, witness)


def test_a_cosignature_whose_answer_was_lost_is_asked_for_again(outside, tmp_path):
    with listening(tmp_path / "w", [outside.log.key.verifier]) as witness:
        body = Submission(0, (), outside.scene.folder.read(4)).data
        assert post(f"{witness.url}/add-checkpoint", body, "text/plain", within_s=10, most_bytes=9999).code == 200
        outside.begin(outside.client(witness))
        outside.look()
        assert outside.is_cosigned(4, witness)


def test_a_witness_that_is_away_does_not_stop_the_others(outside, tmp_path):
    with listening(tmp_path / "w", [outside.log.key.verifier]) as witness:
        away = Witness(cosigner(SigningKey("away.example", outside.log.key.private)), f"http://127.0.0.1:{free_port()}")
        outside.begin(outside.client(away), outside.client(witness), outside.program("true"))
        outside.look()
    assert outside.is_cosigned(4, witness)
    assert outside.metric("outside_entries", "exec") == 4
    assert outside.failures("witness away.example") == {"witness-away": 1}


@pytest.mark.parametrize("at", [5, 301, 1000], ids=["shorter", "as long", "longer"])
def test_a_witness_that_has_cosigned_another_history_raises_an_alarm_and_has_the_evidence(at, outside, tmp_path):
    with listening(tmp_path / "w", [outside.log.key.verifier]) as witness:
        post(f"{witness.url}/add-checkpoint", outside.log.submission(0, at), "text/plain", within_s=10, most_bytes=9999)
        outside.begin(outside.client(witness))
        size = outside.sign(297)
        assert size == 301
        outside.look()
        assert not outside.is_cosigned(size, witness)
        assert outside.failures(PLACE) == {"witness-saw-fork": 1}
        assert [each.code for each in outside.heads.reasons()] == ["witness-saw-fork"]
        assert outside.metric("witness_forked", PLACE) == 1
    with closing(Records(tmp_path / "w" / RECORDS)) as records:
        found = records.evidence()
    if at == 1000:
        assert found == [], "the longer one is refused before it is sent"
    else:
        [evidence] = found
        assert evidence.refused == (outside.scene.notes / str(size)).read_bytes()
        assert SignedNote.parse(evidence.cosigned).text == SignedNote.parse(outside.log.note(at)).text


def test_an_alarm_ends_when_the_witness_cosigns_again(outside, tmp_path):
    port = free_port()
    with listening(tmp_path / "w", [outside.log.key.verifier], port) as witness:
        post(f"{witness.url}/add-checkpoint", outside.log.submission(0, 900), "text/plain", within_s=10, most_bytes=9999)
        outside.begin(outside.client(witness))
        outside.look()
        assert outside.heads.reasons()
    with listening(tmp_path / "other", [outside.log.key.verifier], port, witness.key.name) as other:
        outside.begin(outside.client(other))
        outside.look()
        assert (outside.heads.reasons(), outside.metric("witness_forked", PLACE)) == ([], 0)


def answer(code: int, body: bytes = b"", headers: bytes = b"") -> list[bytes]:
    return [b"HTTP/1.1 %d x\r\n%sContent-Length: %d\r\n\r\n%s" % (code, headers, len(body), body)]


ANSWERS = {
    "unknown log": (answer(404), "witness-refused"),
    "unknown key": (answer(403), "witness-refused"),
    "not understood": (answer(400), "witness-refused"),
    "wrong proof from nothing": (answer(422), "witness-refused"),
    "conflict without a size": (answer(409, b"x\n"), "witness-refused"),
    "conflict with what was sent": (answer(409, b"0\n"), "witness-refused"),
    "redirect": (answer(308, b"", b"Location: http://127.0.0.1:1/\r\n"), "witness-refused"),
    "failing": (answer(500), "witness-away"),
    "busy": (answer(429), "witness-away"),
    "nothing": ([ScriptedServer.CLOSE], "witness-away"),
    "no HTTP": ([b"\0" * 100, ScriptedServer.CLOSE], "witness-away"),
    "endless": ([b"HTTP/1.1 200 x\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 200_000], "witness-away"),
    "no signature": (answer(200, b"hello\n"), "witness-refused"),
    "odd bytes": (answer(200, b"\xff\xe2\x80\x94 a b\n\xe2\x80\x94 \n"), "witness-refused"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_that_is_no_cosignature_is_not_kept(case, outside):
    script, code = ANSWERS[case]
    key = cosigner(SigningKey("hospital-b.example/w", outside.log.key.private))
    with ScriptedServer(script, script) as server:
        outside.begin(outside.client(Witness(key, f"http://127.0.0.1:{server.port}")))
        outside.look()
    assert outside.failures(PLACE) == {code: 1}
    assert outside.heads.reasons() == []
    assert os.listdir(outside.scene.notes) == ["4"]


def test_only_signatures_of_the_configured_key_are_kept(outside):
    other = Log("hospital-b.example/w", seed="x").key
    text = SignedNote.parse(outside.scene.folder.read(4)).text
    ours = SigningKey("hospital-b.example/w", outside.log.key.private)
    wrong = cosign(ours, text + "x", 1).line + cosign(other, text, 1).line
    with ScriptedServer(answer(200, wrong.encode()), answer(200, (wrong + cosign(ours, text, 7).line).encode())) as server:
        outside.begin(outside.client(Witness(cosigner(ours), f"http://127.0.0.1:{server.port}")))
        outside.look()
        assert outside.failures(PLACE) == {"witness-refused": 1}
        outside.look()
    assert (outside.scene.notes / "4.cosig" / "hospital-b.example%2Fw").read_text() == cosign(ours, text, 7).line


def test_what_is_sent_is_the_note_as_signed_and_nothing_else(outside):
    with ScriptedServer(answer(404)) as server:
        key = cosigner(SigningKey("hospital-b.example/w", outside.log.key.private))
        outside.begin(outside.client(Witness(key, f"http://127.0.0.1:{server.port}/prefix")))
        outside.look()
        [(_, request)] = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /prefix/add-checkpoint HTTP/1.1\r\n")
    assert body == Submission(0, (), (outside.scene.notes / "4").read_bytes()).data


@pytest.mark.parametrize("spoil", ["foreign key", "other ledger", "garbage", "nothing"])
def test_a_note_that_no_key_of_the_ledger_has_signed_goes_nowhere(spoil, outside, tmp_path):
    latest = tmp_path / "checkpoint.latest"
    if spoil == "nothing":
        latest.unlink()
    else:
        other = Log(outside.log.key.name) if spoil == "foreign key" else Log(ORIGIN, key=outside.log.key.private)
        latest.write_bytes(b"garbage" if spoil == "garbage" else other.note(4))
    outside.begin(outside.program("sh", "-c", f"touch {tmp_path / 'ran'}"))
    outside.look()
    assert not (tmp_path / "ran").exists()
    assert outside.failures("exec") == {}


def test_a_damaged_cache_of_the_tree_does_not_make_a_wrong_proof(outside, tmp_path):
    with listening(tmp_path / "w", [outside.log.key.verifier]) as witness:
        outside.begin(outside.client(witness))
        outside.sign(600)
        outside.look()
        size = outside.sign(600)
        cache = tmp_path / "tree.cache"
        data = bytearray(cache.read_bytes())
        data[40] ^= 1
        cache.write_bytes(data)
        outside.look()
        assert outside.is_cosigned(size, witness)


def test_program_gets_the_note_with_its_cosignatures_once(outside, tmp_path):
    with listening(tmp_path / "w", [outside.log.key.verifier]) as witness:
        program = outside.program("sh", "-c", f"cat >> {tmp_path / 'got'}")
        outside.begin(outside.client(witness), program)
        outside.look()
        outside.look()
        outside.begin(outside.client(witness), outside.program("sh", "-c", f"cat >> {tmp_path / 'got'}"))
        outside.look()
    assert (tmp_path / "got").read_bytes() == outside.scene.folder.joined(4)
    assert (tmp_path / "got").read_text().count("\u2014") == 2
    outside.begin(outside.program("sh", "-c", f"cat > {tmp_path / 'other'}"))
    outside.look()
    assert (tmp_path / "other").exists(), "another command gets the note, too"


def test_program_that_fails_gets_the_newest_note_later(outside, tmp_path):
    outside.begin(outside.program("sh", "-c", f"cat > {tmp_path / 'got'}; test -e {tmp_path / 'better'}"))
    outside.look()
    size = outside.sign(5)
    (tmp_path / "better").touch()
    outside.look()
    assert outside.failures("exec") == {"exec-failed": 1}
    assert (tmp_path / "got").read_bytes() == outside.scene.folder.read(size)


@pytest.mark.parametrize("command", [["/does/not/exist"], ["false"], ["sh", "-c", "kill -9 $$"], ["a\0b"]])
def test_program_that_cannot_run_is_a_failure(command, outside):
    outside.begin(outside.program(*command))
    outside.look()
    assert outside.failures("exec") == {"exec-failed": 1}


def test_program_sees_no_variable_of_the_service(outside, tmp_path, monkeypatch):
    monkeypatch.setenv("REDIS_PASSWORD", "canary")
    outside.begin(outside.program(sys.executable, "-c", f"import os; open({str(tmp_path / 'env')!r}, 'w').write(repr(dict(os.environ)))"))
    outside.look()
    assert "canary" not in (tmp_path / "env").read_text()
    assert "PATH" in (tmp_path / "env").read_text()


def descendants_end(pid_file: Path) -> bool:
    try:
        return Path(f"/proc/{pid_file.read_text().strip()}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("why", ["time", "stop"])
def test_program_that_does_not_end_is_killed_with_all_that_it_has_started(why, outside, tmp_path):
    pid_file = tmp_path / "pid"
    command = ["sh", "-c", f"sleep 1000 & echo $! > {pid_file}.new; mv {pid_file}.new {pid_file}; wait"]
    stop = threading.Event()
    outside.begin(outside.program(*command, within_s=0.5 if why == "time" else 100))
    thread = threading.Thread(target=outside.look, args=(stop,))
    thread.start()
    until(pid_file.exists)
    if why == "stop":
        stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert outside.failures("exec") == {"exec-failed": 1}
    until(lambda: descendants_end(pid_file))


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tsa"))


@pytest.fixture
def tsa_url(authority) -> Iterator[str]:
    authority.answers, authority.whole_chain = None, False
    with authority.listening() as url:
        yield url


@pytest.mark.parametrize("checked", [True, False], ids=["with roots", "without"])
def test_time_stamp_of_the_note_as_signed_is_kept_and_openssl_accepts_it(checked, outside, authority, tsa_url):
    for count in (0, 5):
        size = outside.sign(count)
        outside.begin(TimeStamps(tsa_url, authority.roots if checked else None, outside.keeper))
        outside.look()
        note = outside.scene.notes / str(size)
        assert authority.verify(note, note.with_suffix(".tsr"))
    before = note.with_suffix(".tsr").read_bytes()
    outside.begin(TimeStamps(tsa_url, authority.roots, outside.keeper))
    outside.look()
    assert note.with_suffix(".tsr").read_bytes() == before, "it has one"
    assert outside.failures("tsa") == {}


@pytest.mark.parametrize(
    "case", ["other root", "two certificates", "other note", "older answer", "changed", "garbage", "no roots in file", "404", "503"]
)
def test_a_response_that_is_no_valid_time_stamp_is_not_kept(case, outside, authority, tsa_url, tmp_path, capsys):
    roots = authority.roots
    if case == "other root":
        (tmp_path / "other").mkdir()
        roots = Authority(tmp_path / "other").roots
    if case == "no roots in file":
        roots = b"-----BEGIN CERTIFICATE-----\nx\n"
    if case == "other note":  # with roots, the library notices it, too
        roots = None
    authority.whole_chain = case == "two certificates"
    head = read_head(outside.scene.ledger, outside.scene.folder.read(4))

    def query(data: bytes) -> bytes:
        return client.TimestampRequestBuilder().data(data).hash_algorithm(client.HashAlgorithm.SHA256).build().as_bytes()

    authority.answers = {
        "other note": lambda asked: (200, authority.stamp(asked.replace(hashlib.sha256(head.note).digest(), bytes(32)))),
        "older answer": lambda _: (200, authority.stamp(query(head.note))),
        "changed": lambda asked: (200, authority.stamp(asked)[:-20] + bytes(20)),
        "garbage": lambda _: (200, b"garbage"),
        "404": lambda _: (404, b""),
        "503": lambda _: (503, b""),
    }.get(case)
    outside.begin(TimeStamps(tsa_url, roots, outside.keeper))
    outside.look()
    assert outside.failures("tsa") == {"tsa-away" if case == "503" else "tsa-refused": 1}
    assert os.listdir(outside.scene.notes) == ["4"]


def test_an_authority_may_ask_for_user_and_password(outside):
    with ScriptedServer(answer(401)) as server:
        outside.begin(TimeStamps(f"http://user:pass@127.0.0.1:{server.port}/x", None, outside.keeper))
        outside.look()
        [(_, request)] = server.requests
    assert b"\r\nAuthorization: Basic dXNlcjpwYXNz\r\n" in request
    assert outside.failures("tsa") == {"tsa-refused": 1}


def test_two_unsorted_certificates_have_a_message_of_their_own(outside, authority, tsa_url):
    authority.whole_chain = True
    head = read_head(outside.scene.ledger, outside.scene.folder.read(4))
    with pytest.raises(Retryable, match="certificates unsorted"):
        TimeStamps(tsa_url, None, outside.keeper).take(head, threading.Event())


class Counting(Place):
    """Has everything already, and counts how often it is asked."""

    name = "counting"
    asked = 0

    def has(self, head: Head) -> bool:
        del head
        self.asked += 1
        return True


def test_a_place_that_has_the_newest_is_not_asked_again(outside):
    place = Counting()
    outside.begin(place)
    for _ in range(3):
        outside.look()
    outside.sign()
    outside.look()
    assert place.asked == 2


def test_a_stopped_thread_begins_nothing_new(outside, tmp_path):
    stop = threading.Event()
    outside.begin(
        outside.program("sh", "-c", f"echo x >> {tmp_path / 'ran'}; kill -USR1 {os.getpid()}"),
        outside.program("touch", str(tmp_path / "second")),
    )
    before = signal.signal(signal.SIGUSR1, lambda *_: stop.set())
    try:
        outside.look(stop)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert stop.is_set()
    assert not (tmp_path / "second").exists()

"""The real service, from the message to the archive, the Status Service, the ledger and the index."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.dicom import described, make_file, testdata_files
from tests.support.making import small_volume
from tests.support.stack import Stack
from tests.support.status_server import Fault
from tests.support.waiting import until


@pytest.fixture
def stack(tmp_path, valkey, status_server):
    made = Stack(tmp_path, valkey, status_server.url)
    yield made
    made.close()


def upload(stack: Stack, study_id: str, data: bytes | None = None, *, seed: int = 0) -> tuple[dict, bytes]:
    """Put a file into uploads as the gateway does; returns the message about it, and its bytes."""
    path = stack.uploads / f"{study_id}.dcm"
    if data is None:
        fields = make_file(path, seed=seed, patient_id=f"P{seed}")
        data = path.read_bytes()
        return described(study_id, f"/app/uploads/{path.name}", fields), data
    path.write_bytes(data)
    return {"study_id": study_id, "file_path": f"/app/uploads/{path.name}", "metadata": {"error": "could not be read"}}, data


def bad_messages(rng: random.Random, count: int) -> list[bytes]:
    """Make every kind of rejected message, and random bytes."""
    good = {"study_id": "s", "file_path": "x.dcm"}
    kinds = [
        lambda: b"{not json",
        lambda: b"\xff\xfe\x00{}",
        lambda: b"[1, 2]",
        lambda: b"null",
        lambda: b"",
        lambda: json.dumps({"study_id": "s"}).encode(),
        lambda: json.dumps({**good, "study_id": 7}).encode(),
        lambda: json.dumps({**good, "file_path": None}).encode(),
        lambda: json.dumps({**good, "metadata": "text"}).encode(),
        lambda: json.dumps({**good, "validation_details": [1]}).encode(),
        lambda: json.dumps({**good, "study_id": rng.choice(["../x", "", ".hidden", "a/b", "a" * 129, "a..b", "a\nb"])}).encode(),
        lambda: json.dumps(
            {**good, "file_path": rng.choice(["/etc/passwd", "../x", "a/../../x", "", "/app/uploads", ".", "a\0b"])}
        ).encode(),
        lambda: json.dumps({**good, "pad": "x" * (1 << 20)}).encode(),
        lambda: b'{"study_id":"s","file_path":"x","deep":' + b"[" * 70 + b"]" * 70 + b"}",
        lambda: b"[" * 20_000,
        lambda: rng.randbytes(rng.randrange(1, 200)),
    ]
    return [kinds[i % len(kinds)]() for i in range(count)]


def assert_archived(stack: Stack, files: dict[str, bytes]) -> None:
    for study_id, data in files.items():
        assert (stack.archive / study_id / f"{study_id}.dcm").read_bytes() == data
        metadata = json.loads((stack.archive / study_id / "metadata.json").read_text())
        assert metadata["study_id"] == study_id
    assert not list(stack.uploads.iterdir())


def test_500_studies_among_1000_bad_messages_with_the_neighbours_late_described(stack, status_server):
    rng = random.Random(7)
    stack.start()
    real = [path.read_bytes() for path in testdata_files()]
    files: dict[str, bytes] = {}
    messages: list[tuple[str, bytes]] = []
    for i in range(500):
        study_id = f"study-{i:04d}"
        message, data = upload(stack, study_id, real[i % len(real)] + i.to_bytes(4, "big"))
        files[study_id] = data
        messages.append((study_id, json.dumps(message).encode()))
    traffic: list[tuple[str | None, bytes]] = [*messages, *((None, bad) for bad in bad_messages(rng, 1000))]
    rng.shuffle(traffic)
    untold = set(files)

    def overwrite(study_id: str) -> bool:
        if told := status_server.status(study_id) == "archived":
            status_server.late_described(study_id, {"late": True})
        return told

    def neighbour() -> bool:
        """Overwrite each status as soon as it was sent, before its last read-back, on machines of any speed."""
        untold.difference_update([study_id for study_id in untold if overwrite(study_id)])
        return not untold

    for study_id, raw in traffic:
        stack.publish(raw)
        if study_id is not None and rng.random() < 0.5:
            status_server.late_described(study_id, {"at": "once"})
        neighbour()
    until(neighbour, 120, what="all to be archived and told")
    until(lambda: all(status_server.status(s) == "archived" for s in files), 120, what="all to be archived, and to stay so")
    until(stack.idle, 60, what="nothing to be pending")
    assert_archived(stack, files)
    for study_id in files:
        details = status_server.statuses[study_id]["details"]
        assert details["archive_path"] == f"{stack.archive}/{study_id}"
        assert details["metadata_file"] == f"{stack.archive}/{study_id}/metadata.json"
    peak_kb = int(
        next(row for row in Path(f"/proc/{stack.process.pid}/status").read_text().splitlines() if row.startswith("VmHWM")).split()[1]
    )
    assert peak_kb < 200_000
    assert stack.stop() == 0
    found = stack.check()  # it has ended: a read-back may cause a re-send at any time, which is mirrored within a second
    assert found["violations"] == []
    assert found["counts"]["described"] == found["counts"]["archived"] == 500
    assert found["counts"]["rejected"] == 1000
    assert found["counts"]["status-sent"] >= 500
    assert_index_equals_a_fresh_one(stack)


def tree(stack: Stack) -> dict[str, bytes]:
    """Return every file of the archive except the mirror, which grows with the ledger."""
    files = (path for path in stack.archive.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files if path.suffix != ".entries"}


def assert_index_equals_a_fresh_one(stack: Stack) -> None:
    before = dump_index(stack)
    for suffix in ("", "-wal", "-shm"):
        (stack.ledger / f"index.db{suffix}").unlink(missing_ok=True)
    stack.start()
    until(stack.idle, 30, what="the index to be rebuilt")
    assert stack.stop() == 0
    assert dump_index(stack) == before


def dump_index(stack: Stack) -> dict[str, list]:
    code = """
import json, sqlite3, sys
c = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
names = ["studies", "uploads", "files", "dicom_studies", "series"]
print(json.dumps({n: sorted(c.execute(f"SELECT * FROM {n}").fetchall(), key=repr) for n in names}))
"""
    done = subprocess.run([sys.executable, "-c", code, str(stack.ledger / "index.db")], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_every_event_twice_or_thrice_out_of_order_by_two_publishers_gives_the_same_archive(stack, status_server):
    stack.start()
    files = {}
    messages = []
    for i in range(60):
        study_id = f"twice-{i:03d}"
        message, files[study_id] = upload(stack, study_id, seed=i)
        messages.append(json.dumps(message).encode())

    def publisher(seed: int) -> None:
        rng = random.Random(seed)
        mine = [m for m in messages for _ in range(rng.choice((1, 2)))]
        rng.shuffle(mine)
        for message in mine:
            stack.publish(message)

    threads = [threading.Thread(target=publisher, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: all(status_server.status(s) == "archived" for s in files), 60, what="all to be archived")
    until(stack.idle, 30, what="nothing to be pending")
    assert_archived(stack, files)
    before = tree(stack)
    received = stack.metric("storage_ledger_messages_received_total")
    for message in messages:  # once more, long after
        stack.publish(message)
    until(lambda: stack.metric("storage_ledger_messages_received_total") == received + len(messages), 30, what="the redeliveries to arrive")
    until(stack.idle, 30, what="nothing to be pending")
    assert tree(stack) == before
    assert stack.check()["violations"] == []
    last = stack.command("show", "twice-000", "--json")
    kinds = [entry["kind"] for entry in json.loads(last.stdout)["entries"]]
    assert kinds[-3:] == ["described", "archived", "status-sent"]


def test_special_files_end_quarantined_and_nothing_outside_is_opened(stack, status_server, tmp_path):
    outside = tmp_path / "outside.dcm"
    outside.write_bytes(b"secret")
    strace = shutil.which("strace")
    opened = tmp_path / "opened.txt"
    stack.start(under=[strace, "-f", "-qq", "-o", str(opened), "-e", "trace=open,openat,openat2"] if strace else ())
    inside, data = upload(stack, "real")
    (stack.uploads / "link-inside.dcm").symlink_to(stack.uploads / "real.dcm")
    (stack.uploads / "link-outside.dcm").symlink_to(outside)
    (stack.uploads / "link-folder").symlink_to(tmp_path)
    os.mkfifo(stack.uploads / "fifo.dcm")
    (stack.uploads / "folder.dcm").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        where = os.getcwd()
        os.chdir(stack.uploads)  # the path of a socket is short
        listener.bind("socket.dcm")
        os.chdir(where)
    special = {
        "link-inside": ("link-inside.dcm", "upload-is-link"),
        "link-outside": ("link-outside.dcm", "upload-is-link"),
        "through-link": ("link-folder/outside.dcm", "upload-is-link"),
        "fifo": ("fifo.dcm", "upload-is-fifo"),
        "folder": ("folder.dcm", "upload-is-folder"),
        "socket": ("socket.dcm", "upload-is-socket"),
        "missing": ("missing.dcm", "upload-missing"),
        "long": ("x" * 300 + ".dcm", "upload-name-too-long"),
    }
    if os.geteuid() == 0:
        os.mknod(stack.uploads / "device.dcm", 0o600 | 0o020000, os.makedev(1, 5))
        special["device"] = ("device.dcm", "upload-is-device")
    for study_id, (name, _) in special.items():
        stack.publish({"study_id": study_id, "file_path": name})
    until(lambda: all(status_server.status(s) == "failed" for s in special), 30, what="all to be told as failed")
    for study_id, (_, code) in special.items():
        assert status_server.statuses[study_id]["details"]["error"] == code
        assert not (stack.archive / study_id).exists()
    listed = stack.command("quarantine", "list", "--json")
    assert listed.returncode == 1
    assert {(item["study_id"], item["code"]) for item in json.loads(listed.stdout)} == {(s, code) for s, (_, code) in special.items()}
    stack.publish(inside)
    until(lambda: status_server.status("real") == "archived", 30)
    assert (stack.archive / "real" / "real.dcm").read_bytes() == data
    # A redelivery repairs it: the missing file has arrived.
    message, data = upload(stack, "missing")
    stack.publish(message)
    until(lambda: status_server.status("missing") == "archived", 30)
    until(stack.idle, 30)
    assert stack.check()["violations"] == []
    if strace is None:
        pytest.skip("no strace: what was opened was not looked at; all else passed")
    assert stack.stop() == 0
    # Reconciliation reads folders; a folder cannot be read as a file by mistake.
    calls = "\n".join(line for line in opened.read_text().splitlines() if not ('"folder.dcm", ' in line and "O_DIRECTORY" in line))
    assert '"real.dcm"' in calls  # the trace does see what is opened
    for name, _ in special.values():
        if name not in {"missing.dcm", "x" * 300 + ".dcm"}:
            assert f'"{Path(name).name}"' not in calls, name


def test_a_file_that_comes_within_the_grace_is_archived(tmp_path, valkey, status_server):
    stack = Stack(tmp_path, valkey, status_server.url, MISSING_FILE_GRACE_SECONDS=60)
    try:
        stack.start()
        stack.publish({"study_id": "late", "file_path": "late.dcm"})
        until(lambda: stack.metric('storage_ledger_retries_total{code="upload-missing",stage="place"}') >= 1, 20)
        _, data = upload(stack, "late")
        until(lambda: status_server.status("late") == "archived", 60)
        assert (stack.archive / "late" / "late.dcm").read_bytes() == data
    finally:
        stack.close()


def test_uploads_and_archive_on_different_devices(tmp_path, valkey, status_server):
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev or not os.access(memory, os.W_OK):
        pytest.skip("no /dev/shm on another device")
    uploads = memory / f"storage-ledger-{os.getpid()}"
    stack = Stack(tmp_path, valkey, status_server.url, uploads=uploads)
    try:
        stack.start()
        files = {}
        for i in range(30):
            message, files[f"far-{i}"] = upload(stack, f"far-{i}", seed=i)
            stack.publish(message)
        until(lambda: all(status_server.status(s) == "archived" for s in files), 30)
        until(stack.idle, 30)
        assert_archived(stack, files)
        assert stack.check()["violations"] == []
    finally:
        stack.close()
        for path in uploads.iterdir():
            path.unlink()
        uploads.rmdir()


def test_several_files_of_one_study_and_the_same_name_with_other_bytes(stack, status_server):
    stack.start()
    contents = {"a/one.dcm": b"first", "b/one.dcm": b"second", "two.dcm": b"third", ".hidden.dcm": b"fourth", "metadata.json": b"fifth"}
    for name, data in contents.items():
        path = stack.uploads / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        stack.publish({"study_id": "many", "file_path": name, "metadata": {"patient_info": {"patient_id": "P"}}})
    until(lambda: stack.metric('storage_ledger_files_archived_total{placement="copied"}') == 5, 30)
    until(stack.idle, 30)
    digest = {data: hashlib.sha256(data).hexdigest()[:12] for data in contents.values()}
    names = {path.name: path.read_bytes() for path in (stack.archive / "many").iterdir() if path.name != "metadata.json"}
    assert names == {
        "one.dcm": b"first",
        f"one~{digest[b'second']}.dcm": b"second",
        "two.dcm": b"third",
        f"{digest[b'fourth']}.dcm": b"fourth",
        f"{digest[b'fifth']}.json": b"fifth",
    }
    assert stack.check()["violations"] == []
    # One more file that never arrives: the study is `failed` while it is quarantined, whatever else is archived.
    stack.publish({"study_id": "many", "file_path": "three.dcm"})
    until(lambda: status_server.status("many") == "failed", 30)
    (stack.uploads / "three.dcm").write_bytes(b"sixth")
    stack.publish({"study_id": "many", "file_path": "three.dcm"})
    until(lambda: status_server.status("many") == "archived", 30)


def test_a_redelivery_replaces_a_damaged_file_and_keeps_the_evidence(stack, status_server):
    stack.start()
    message, data = upload(stack, "hurt")
    stack.publish(message)
    until(lambda: status_server.status("hurt") == "archived" and stack.idle(), 30)
    archived = stack.archive / "hurt" / "hurt.dcm"
    archived.chmod(0o640)
    archived.write_bytes(b"damaged")
    (stack.uploads / "hurt.dcm").write_bytes(data)
    stack.publish(message)
    until(lambda: archived.exists() and archived.read_bytes() == data, 30)  # for a moment it is set aside
    until(stack.idle, 30)
    assert [p.read_bytes() for p in (stack.archive / ".ledger" / "damaged").rglob("*") if p.is_file()] == [b"damaged"]
    assert stack.check()["violations"] == []


def test_a_misbehaving_status_service_receives_every_status_in_the_end(stack, status_server):
    rng = random.Random(3)
    faults = [
        Fault(code=500),
        Fault(code=503, body=b"x" * 10_000),
        Fault(close="before-storing"),
        Fault(close="after-storing"),
        Fault(code=429),
        Fault(code=422),
        Fault(code=200, body=b"\xff garbage"),
        None,
        None,
        None,
    ]
    status_server.always = lambda call: rng.choice(faults) if call.method == "POST" else None
    stack.start()
    files = {}
    for i in range(60):
        message, files[f"study-{i}"] = upload(stack, f"study-{i}", seed=i)
        stack.publish(message)
    until(lambda: len(status_server.posts) > 80, 60, what="the service to have met the faults")
    status_server.always = None
    until(lambda: all(status_server.status(s) == "archived" for s in files), 90, what="all to be told")
    until(stack.idle, 60)
    assert_archived(stack, files)
    assert stack.check()["violations"] == []


def test_an_outage_of_the_status_service_adds_one_entry_and_another_when_it_ends(stack, status_server):
    status_server.always = Fault(code=500)
    stack.start()
    files = {}
    for i in range(20):
        message, files[f"study-{i}"] = upload(stack, f"study-{i}", seed=i)
        stack.publish(message)
    until(lambda: stack.metric('storage_ledger_outage{code="status-service-away",step="tell"}') == 1, 60, what="the outage to be seen")
    code, body = stack.get("/readyz")
    assert code == 503
    assert "status-service-away" in body
    until(lambda: not list(stack.uploads.iterdir()), 30)
    assert_archived(stack, files)
    status = stack.command("status", "--json")
    assert status.returncode == 1
    assert "status-service-away" in [item["code"] for item in json.loads(status.stdout)["attention"]]
    stack.kill()
    stack.start(ready=False)  # it remembers, and does not report it twice
    until(lambda: stack.metric('storage_ledger_outage{code="status-service-away",step="tell"}') == 1, 60)
    status_server.always = None
    until(lambda: all(status_server.status(s) == "archived" for s in files), 90)
    until(stack.idle, 60)
    counts = stack.check()
    assert counts["violations"] == []
    assert (counts["counts"]["failed"], counts["counts"]["recovered"]) == (1, 1)
    assert stack.get("/readyz")[0] == 200


def test_failed_is_sent_for_a_rejected_message_only_if_the_study_was_not_described(stack, status_server):
    stack.start()
    stack.publish({"study_id": "unknown", "file_path": "../escape"})
    until(lambda: status_server.status("unknown") == "failed", 20)
    assert status_server.statuses["unknown"]["details"] == {"error": "unsafe-path"}
    message, _ = upload(stack, "known")
    stack.publish(message)
    until(lambda: status_server.status("known") == "archived", 20)
    stack.publish({"study_id": "known", "file_path": "../escape"})
    stack.publish({"study_id": "../evil", "file_path": "x"})
    until(lambda: stack.metric('storage_ledger_messages_rejected_total{reason="unsafe-study-id"}') == 1, 20)
    until(stack.idle, 20)
    assert status_server.posted("known") == ["archived"]
    status_server.late_described("unknown", {})  # read back, and re-sent
    until(lambda: status_server.status("unknown") == "failed", 20)
    # Its real message arrives after all.
    message, _ = upload(stack, "unknown")
    stack.publish(message)
    until(lambda: status_server.status("unknown") == "archived", 20)
    until(stack.idle, 20)
    assert stack.check()["violations"] == []


def test_a_full_archive_pauses_the_projector_and_quarantines_nothing(tmp_path, valkey, status_server):
    archive = tmp_path / "archive"
    with small_volume(archive, "6m"):
        stack = Stack(tmp_path, valkey, status_server.url, MISSING_FILE_GRACE_SECONDS=0)
        try:
            ballast = archive / "ballast"
            ballast.write_bytes(b"x" * (5 << 20))
            stack.start(ready=False)
            until(lambda: stack.metric("storage_ledger_source_subscribed") == 1, 30)
            files = {}
            for i in range(8):
                message, files[f"s{i}"] = upload(stack, f"s{i}", bytes([i]) * 400_000)
                stack.publish(message)
            until(lambda: stack.metric('storage_ledger_outage{code="archive-full",step="place"}') == 1, 30)
            assert "archive-full" in stack.get("/readyz")[1]
            ballast.unlink()
            until(lambda: all(status_server.status(s) == "archived" for s in files), 60)
            until(stack.idle, 30)
            assert_archived(stack, files)
            found = stack.check()
            assert found["violations"] == []
            assert "quarantined" not in found["counts"]
            # A copy may have taken the last page just when the mirror needed one: then the mirror has reported it, too.
            sql = "SELECT kind, json_extract(payload, '$.step') FROM entries WHERE kind IN ('failed', 'recovered') ORDER BY position"
            with closing(sqlite3.connect(stack.ledger / "ledger.db")) as connection:
                said = connection.execute(sql).fetchall()
            assert [kind for kind, step in said if step == "place"] == ["failed", "recovered"]
            assert [kind for kind, step in said if step != "place"] in ([], ["failed", "recovered"])
        finally:
            stack.close()


def test_messages_beyond_the_hourly_limit_are_counted_not_recorded(tmp_path, valkey, status_server):
    stack = Stack(tmp_path, valkey, status_server.url, REJECTED_PER_HOUR=5)
    try:
        stack.start()
        for _ in range(12):
            stack.publish(b"nonsense")
        until(lambda: stack.metric("storage_ledger_messages_received_total") == 12, 20)
        counted = stack.check(settled=False)["counts"].get("rejected", 0)
        # The limit holds within an hour of the clock; the run may have crossed into the next one.
        assert counted in range(5, 11)
        assert stack.metric("storage_ledger_messages_rejected_unlogged_total") == 12 - counted
    finally:
        stack.close()


def test_a_stop_removes_the_uploads_of_what_was_archived(stack, status_server):
    stack.start()
    files = {}
    for i in range(40):
        message, files[f"s{i}"] = upload(stack, f"s{i}", seed=i)
        stack.publish(message)
    until(lambda: stack.metric('storage_ledger_files_archived_total{placement="copied"}') >= 5, 30)
    assert stack.stop() == 0
    found = stack.check(settled=False)
    assert found["violations"] == []
    assert found["archived"]
    assert not [study_id for study_id in found["archived"] if (stack.uploads / f"{study_id}.dcm").exists()]


def test_a_second_serve_ends_with_11_and_names_the_first(stack):
    stack.start()
    second = stack.command("serve")
    assert second.returncode == 11
    assert str(stack.process.pid) in second.stderr
    assert stack.stop() == 0


@pytest.mark.parametrize(
    "log", ['exec "$@" 2>/dev/full', 'set -o pipefail; "$@" 2>&1 | head -n 1 >/dev/null'], ids=["full disk", "reader gone"]
)
@pytest.mark.skipif(shutil.which("bash") is None or not Path("/dev/full").exists(), reason="takes bash and /dev/full")
def test_a_log_that_cannot_be_written_stops_nothing(stack, status_server, log):
    stack.start(under=("bash", "-c", log, "bash"))
    stack.publish(b"no event")  # each of these is a line
    message, data = upload(stack, "S1")
    stack.publish(message)
    until(lambda: status_server.status("S1") == "archived", 30)
    assert (stack.archive / "S1" / "S1.dcm").read_bytes() == data
    assert stack.stop() == 0


def test_the_exit_code_is_right_where_its_reason_cannot_be_written(stack):
    stack.environment["HTTP_PORT"] = "nonsense"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "storage_ledger", "serve"], env=stack.environment, stderr=full, check=False)
    assert done.returncode == 2


@pytest.mark.skipif(not Path("/proc/self/task").is_dir() or os.cpu_count() == 1, reason="takes Linux and more than one processor")
def test_the_threads_of_the_service_share_one_processor_and_leave_the_main_one_all(stack):
    stack.start()
    pid = json.loads((stack.ledger / "serve.lock").read_text())["pid"]
    own, shared = frozenset(os.sched_getaffinity(0)), set()

    def settled() -> bool:  # a thread that has just been started is about to
        given = {int(task.name): frozenset(os.sched_getaffinity(int(task.name))) for task in Path(f"/proc/{pid}/task").iterdir()}
        assert given.pop(pid) == own
        shared.clear()
        shared.update(given.values())
        return len(given) > 10 and len(shared) == 1 and len(*shared) == 1

    until(settled, 30, what="all threads to be on one processor")
    assert shared.pop() < own


def test_valkey_restarted_under_the_service_is_subscribed_to_again(stack, valkey, status_server):
    stack.start()
    valkey.kill()
    until(lambda: stack.get("/readyz")[0] == 503, 30)
    assert "redis-not-subscribed" in stack.get("/readyz")[1]
    assert stack.get("/healthz")[0] == 200
    valkey.start()
    until(lambda: stack.get("/readyz")[0] == 200, 60)
    message, data = upload(stack, "after")
    stack.publish(message)
    until(lambda: status_server.status("after") == "archived", 30)
    assert (stack.archive / "after" / "after.dcm").read_bytes() == data


def test_no_patient_reaches_logs_metrics_or_status_bodies_on_any_failure(stack, status_server):
    """Put a canary name into every value of a message and a file, and run it through every failure that can be produced here."""
    canary = "CANARY^SECRET"
    stack.environment["LOG_LEVEL"] = "DEBUG"
    status_server.next(
        *[Fault(code=500, body=canary.encode()), Fault(code=422, body=canary.encode()), Fault(raw=lambda: [canary.encode()])]
    )
    stack.start()
    metadata = {"patient_info": {"patient_name": canary, "patient_id": canary}, canary: canary}
    path = stack.uploads / "good.dcm"
    make_file(path, patient_name=canary, patient_id=canary)
    whole = path.read_bytes()
    for name, data in {
        "good": whole,
        "cut": whole[: len(whole) // 2],
        "text": canary.encode(),
        "badvr": whole.replace(b"PN", b"ZZ").replace(b"DA", b"??"),
        f"{canary}": whole + b"1",
    }.items():
        (stack.uploads / f"{name}.dcm").write_bytes(data)
    names = ["good.dcm", "cut.dcm", "text.dcm", "badvr.dcm", f"{canary}.dcm", f"missing-{canary}.dcm"]
    for i, name in enumerate(names):
        stack.publish({"study_id": f"s{i}", "file_path": name, "metadata": metadata, "validation_details": {"said": canary}})
    for bad in (
        canary.encode(),
        json.dumps({"study_id": canary, "file_path": canary, "metadata": metadata}).encode(),
        json.dumps({"study_id": "s9", "file_path": f"../{canary}", "metadata": metadata}).encode(),
        json.dumps({"study_id": "s9", "file_path": "x", "metadata": {"patient_info": canary}}).encode(),
        json.dumps({"study_id": "s9", "file_path": "x", "metadata": [canary]}).encode(),
        canary.encode() + b"\xff",
    ):
        stack.publish(bad)
    until(lambda: all(status_server.status(f"s{i}") in ("archived", "failed") for i in range(len(names))), 60)
    until(stack.idle, 30)
    texts = {"metrics": stack.get("/metrics")[1], "readyz": stack.get("/readyz")[1]}
    assert stack.stop() == 0
    texts["log"] = stack.log.read_text()
    texts["status bodies"] = json.dumps([call.body for call in status_server.posts])
    for where, text in texts.items():
        assert text
        for secret in ("CANARY", "SECRET"):
            assert secret not in text, where
    assert canary.encode() in b"".join(p.read_bytes() for p in stack.archive.rglob("metadata.json"))  # the canary was really there


def test_show_and_status_and_quarantine_tell_the_story(stack, status_server):
    stack.start()
    message, _ = upload(stack, "told")
    stack.publish(message)
    until(lambda: status_server.status("told") == "archived" and stack.idle(), 30)
    story = json.loads(stack.command("show", "told", "--json").stdout)
    assert story["state"] == "archived"
    assert [entry["kind"] for entry in story["entries"]][:3] == ["described", "archived", "status-sent"]
    assert "told.dcm" in stack.command("show", "told").stdout
    nobody = stack.command("show", "nobody")
    assert (nobody.returncode, nobody.stderr) == (1, "")
    assert "has no entry for nobody" in nobody.stdout
    assert stack.command("quarantine", "list").returncode == 0
    well = stack.command("status")
    assert well.returncode == 0, well.stdout
    assert "All is well" in well.stdout
    stack.publish({"study_id": "gone", "file_path": "gone.dcm"})
    until(lambda: status_server.status("gone") == "failed", 30)
    assert stack.command("status").returncode == 1
    shown = stack.command("quarantine", "show", "gone")
    assert shown.returncode == 0
    assert "upload-missing" in shown.stdout
    assert "upload-missing" in stack.command("show", "gone").stdout


def test_bad_settings_are_all_named_at_once_and_end_with_2(stack):
    stack.environment |= {"HTTP_PORT": "http", "REDIS_URL": "nonsense", "LOG_LEVEL": "LOUD"}
    done = stack.command("serve")
    assert done.returncode == 2
    assert all(name in done.stderr for name in ("HTTP_PORT", "REDIS_URL", "LOG_LEVEL"))
    assert Counter(done.stderr.splitlines()).most_common(1)[0][1] == 1


def test_an_archive_folder_that_cannot_be_made_is_a_bad_setting_that_names_it(stack):
    stack.archive.rmdir()
    stack.archive.symlink_to(stack.root / "nowhere" / "deep")
    done = stack.command("serve")
    assert done.returncode == 2
    assert "bad-settings: ARCHIVE_PATH: " in done.stderr

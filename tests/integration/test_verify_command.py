"""`storage-ledger verify` as a process beside the working service; and the scrub inside the service."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.test_the_way_of_one_event import upload
from tests.support.stack import Stack
from tests.support.waiting import until


@pytest.fixture
def stack(tmp_path, valkey, status_server):
    made = Stack(tmp_path, valkey, status_server.url, SCRUB_RATE_MB_S=1000)
    yield made
    made.close()


def verify(stack: Stack, *arguments: str) -> tuple[int, dict]:
    done = stack.command("verify", "--json", *arguments)
    assert done.returncode in {0, 1, 2}, done.stderr
    return done.returncode, json.loads(done.stdout)


def codes(look: dict) -> list[str]:
    return [item["code"] for item in look["attention"]]


def damage(path) -> bytes:
    data = path.read_bytes()
    os.chmod(path, 0o640)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return data


def send(stack: Stack, *study_ids: str) -> None:
    for study_id in study_ids:
        message, _ = upload(stack, study_id)
        stack.publish(message)


def test_beside_a_service_under_traffic_there_is_nothing_to_find(stack, status_server):
    stack.environment["SCRUB_RATE_MB_S"] = "0"  # `status` shows the newest verification of any kind
    stack.start()
    send(stack, *(f"s{n}" for n in range(40)))
    with ThreadPoolExecutor(1) as another:
        running = another.submit(verify, stack)
        n = 40
        while not running.done() and n < 300:
            send(stack, f"s{n}")
            n += 1
        code, found = running.result()
    assert (code, found["findings"], found["unchecked"]) == (0, [], [])
    assert found["recorded"]

    until(stack.idle, 60)
    damage(stack.archive / "s1" / "s1.dcm")
    code, found = verify(stack)
    assert (code, [(each["code"], each["path"]) for each in found["findings"]]) == (1, [("file-changed", "s1/s1.dcm")])
    until(stack.idle, 30)
    looks: list[dict] = []

    def only_the_damage_is_left() -> bool:
        """Return whether only the damage is reported: on a busy machine a slow neighbour stays in /readyz for half a minute."""
        done = stack.command("status", "--json")
        looks.append(json.loads(done.stdout))
        return (done.returncode, codes(looks[-1])) == (1, ["damaged-files"])

    until(only_the_damage_is_left, 90, what=lambda: f"status to need attention for the damage alone, not for {[*map(codes, looks)]}")
    assert looks[-1]["last_verify"]["files"] == found["files"]

    message, _ = upload(stack, "s1")  # the redelivery brings the good one back
    stack.publish(message)
    until(lambda: stack.metric('storage_ledger_files_archived_total{placement="copied"}') > n, 30)
    until(stack.idle, 30)
    assert verify(stack, "--study", "s1")[1]["findings"] == []
    assert stack.stop() == 0


def test_the_scrub_of_the_service_finds_damage_and_the_service_stops_promptly(stack, status_server):
    stack.start()
    send(stack, "a", "b", "c")
    # It may have looked before the index had any of them; it looks again after a minute.
    until(lambda: stack.metric('storage_ledger_scrub_files_total{outcome="intact"}') == 3, 90, what="the scrub to have read all")
    until(lambda: stack.metric("storage_ledger_last_scrub_timestamp_seconds") > 0, what="the round to be recorded")
    assert stack.metric('storage_ledger_entries_total{kind="verified"}') >= 1
    assert stack.stop() == 0
    code, found = verify(stack)
    assert (code, found["findings"]) == (0, [])


def test_ctrl_c_ends_it_and_what_was_read_is_recorded(stack, status_server):
    stack.start()
    send(stack, *(f"s{n}" for n in range(20)))
    until(stack.idle, 60)
    assert stack.stop() == 0
    command = [sys.executable, "-m", "storage_ledger", "verify", "--json", "--rate", "0.002"]
    running = subprocess.Popen(command, env=stack.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    seen: set[str] = set()
    until(lambda: len(seen.update(_open_files(running.pid)) or seen) > 1, 60, what="a file to be read, and another begun")
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    found = json.loads(out)
    assert (running.returncode, found["interrupted"]) == (130, True), err
    assert found["files"] < 20
    assert (len(found["recorded"]), found["not_recorded"]) == (1, None)


def _open_files(pid: int) -> set[str]:
    """Return the archived files that a process has open now."""
    found = set()
    for link in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pid}/fd/{link}"))
    return {path for path in found if path.endswith(".dcm")}

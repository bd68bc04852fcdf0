"""Hostile messages and files cost the service nothing but their entries.

STORAGE_LEDGER_MESSAGES: how many (1,000; scripts/faults: 10,000), STORAGE_LEDGER_SEED: which.
"""

from __future__ import annotations

import json
import os
import random
import socket
from pathlib import Path

import pytest

from tests.support.dicom import described, make_file
from tests.support.figures import note
from tests.support.hostile import hostile
from tests.support.stack import Stack
from tests.support.status_server import StatusServer
from tests.support.valkey import Valkey
from tests.support.waiting import until

MESSAGES = int(os.environ.get("STORAGE_LEDGER_MESSAGES", "500"))
SEED = int(os.environ.get("STORAGE_LEDGER_SEED", "5"))
VALID_EVERY = 25
AT_ONCE = 200  # keeps the server's buffer for slow subscribers out of this
GROWTH_KB = 48 << 10  # growth in the second half: anything kept for each message would be more


@pytest.mark.timeout(3600)
def test_hostile_messages_cost_nothing_but_their_entries(tmp_path: Path, valkey: Valkey, status_server: StatusServer) -> None:
    rng = random.Random(SEED)
    stack = Stack(tmp_path, valkey, status_server.url)
    files: dict[str, bytes] = {}
    traffic = list(hostile(rng, MESSAGES))
    for n in range(0, MESSAGES, VALID_EVERY):
        path = stack.uploads / f"valid-{n}.dcm"
        fields = make_file(path, seed=n)
        files[f"valid-{n}"] = path.read_bytes()
        traffic.insert(rng.randrange(len(traffic)), good(f"valid-{n}", path, fields))
    traffic += poison(stack.uploads)
    sent = 0
    client = valkey.client()
    try:
        stack.start()
        rss: list[int] = []
        for half in (traffic[: len(traffic) // 2], traffic[len(traffic) // 2 :]):
            for start in range(0, len(half), AT_ONCE):
                for raw in half[start : start + AT_ONCE]:
                    assert client.publish(stack.channel, raw) == 1
                sent += len(half[start : start + AT_ONCE])
                until(lambda so_far=sent: stack.metric("storage_ledger_messages_received_total") == so_far, 120, every_s=0.02)
                note("hostile", points=sent, of=len(traffic), studies=len(files), seed=SEED)
            until(stack.idle, 300, what="all of it to be judged", every_s=0.1)
            rss.append(rss_kb(stack))
        note("hostile", points=sent, of=len(traffic), studies=len(files), seed=SEED, rss_kb=rss)
        assert rss[1] - rss[0] < GROWTH_KB, f"RSS in KiB after each half: {rss}"
        assert stack.get("/readyz")[0] == 200
        for study_id, data in files.items():
            assert (stack.archive / study_id / f"{study_id}.dcm").read_bytes() == data
            assert status_server.status(study_id) == "archived"
        found = stack.check()
        assert found["violations"] == []
        counts = found["counts"]
        assert counts["described"] + counts["rejected"] == len(traffic)
        assert counts["rejected"] > MESSAGES / 3
        assert counts["archived"] == len(files)
        assert counts["quarantined"] == counts["described"] - len(files)
        assert {path.name for path in stack.uploads.iterdir()} == {"fifo", "link", "folder", "socket"}
        assert stack.stop() == 0
    finally:
        client.close()
        stack.close()


def good(study_id: str, path: Path, fields: object) -> bytes:
    """Make a valid message."""
    return json.dumps(described(study_id, f"/app/uploads/{path.name}", fields)).encode()


def poison(uploads: Path) -> list[bytes]:
    """Put things that are not regular files into uploads, and return the messages about them."""
    os.mkfifo(uploads / "fifo")
    (uploads / "link").symlink_to("/etc/passwd")
    (uploads / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(uploads / "socket"))
    return [b'{"study_id":"poison-%d","file_path":"%s"}' % (n, name) for n, name in enumerate((b"fifo", b"link", b"folder", b"socket"))]


def rss_kb(stack: Stack) -> int:
    """Return the memory that the service uses now."""
    assert stack.process is not None
    lines = Path(f"/proc/{stack.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])

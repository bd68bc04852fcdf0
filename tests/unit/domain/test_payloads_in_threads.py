"""The first payloads of a process may be decoded by several threads at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

TRIES = 20

# In a process of its own: a crash would end this one. Each child is like a process that has just imported the package.
SCENE = f"""
import os, sys, threading
import msgspec
from storage_ledger.domain import payloads

sys.setswitchinterval(1e-6)
KINDS = list(payloads._BY_KIND.values())

def decode():
    together.wait()
    for kind in KINDS:
        try:
            msgspec.json.Decoder(kind).decode(b"{{}}")
        except ValueError:
            pass

codes = []
for _ in range({TRIES}):
    pid = os.fork()
    if pid == 0:
        together = threading.Barrier(6)
        threads = [threading.Thread(target=decode) for _ in range(6)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(codes)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it forks")
def test_the_first_payloads_are_decoded_by_several_threads_at_once():
    done = subprocess.run([sys.executable, "-c", SCENE], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == str([0] * TRIES), done.stderr

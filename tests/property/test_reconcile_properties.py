"""With any files in uploads and any answers of the Status Service, a pass ends, and nothing is lost or duplicated."""

import json
import os
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage_ledger.archive.uploads import Uploads
from storage_ledger.domain.entries import Kind
from storage_ledger.pipeline.reconcile.sweep import Reconciler
from storage_ledger.pipeline.status_client import StatusClient
from tests.support.pipeline import Pipeline
from tests.support.status_server import Call, Fault, StatusServer

names = st.one_of(
    st.binary(min_size=1, max_size=60).filter(lambda name: b"/" not in name and b"\0" not in name and name not in {b".", b".."}),
    st.from_regex(rb"\A[A-C](\.dcm|\.part|)\Z"),
)
texts = st.text(st.characters(exclude_categories=()), max_size=5)  # including lone surrogates
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
metadata = st.dictionaries(st.sampled_from(["patient_info", "study_info", "error", "x"]), values | st.just({"patient_id": "P"}), max_size=3)
words = st.sampled_from(["described", "described", "described", "archived", "failed", "strange"])


@pytest.fixture(scope="module")
def server():
    made = StatusServer()
    yield made
    made.close()


@given(
    st.dictionaries(names, st.binary(min_size=1, max_size=20), max_size=6),
    words,
    metadata | values,
    st.lists(st.booleans(), min_size=2, max_size=4),
)
@example({b"A.dcm": b"x", b"A.part": b"x", b"A": b"y"}, "described", {"patient_info": {}}, [True, True])
@example({b"\xff.dcm": b"x", b"\n.dcm": b"y", b"-": b"z"}, "described", {"x": "\ud800", "y": float("inf")}, [True, False])
@settings(max_examples=60)
def test_every_file_is_archived_once_or_still_there(ledgers, server, files, word, details, finishes):
    body = json.dumps({"status": word, "details": details}).encode()

    def says(_: Call) -> Fault:
        return Fault(body=body)

    server.always = says
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(Path(folder), ledgers)
        pipeline.clock.now = datetime.now(UTC) + timedelta(hours=1)
        pipeline.restart()
        client = StatusClient(server.url)
        for name, data in files.items():
            (pipeline.uploads / os.fsdecode(name)).write_bytes(data)
        for finish in finishes:
            reconciler = Reconciler(
                pipeline.ledger, Uploads(pipeline.uploads), client,
                metrics=pipeline.metrics, clock=pipeline.clock, grace_s=60, second_look_s=0.0,
                wakeup=threading.Event(),
            )  # fmt: skip
            done = reconciler.sweep(threading.Event())
            assert (done.complete, done.trouble, done.changing) == (True, None, 0)
            assert done.looked_at == done.held + done.described + done.leftovers + done.unexplained
            if finish:
                pipeline.finish()
        pipeline.finish()
        entries = pipeline.ledger.read(0, 1000)
        archived = {os.fsencode(entry.data["upload_path"]) for entry in entries if entry.kind == Kind.ARCHIVED}
        assert len(archived) == sum(entry.kind == Kind.DESCRIBED for entry in entries)
        assert archived | {os.fsencode(path.name) for path in pipeline.uploads.iterdir()} == files.keys()
        for path in pipeline.uploads.iterdir():
            assert path.read_bytes() == files[os.fsencode(path.name)]
        for entry in entries:
            if entry.kind == Kind.ARCHIVED:
                data = (pipeline.archive / entry.study_id / entry.data["file"]["name"]).read_bytes()
                assert data == files[os.fsencode(entry.data["upload_path"])]
        pipeline.check_metadata()
        client.close()
        pipeline.ledger.close()

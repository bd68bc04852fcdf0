"""Random single damages: verify reports each one, at its place, and nothing else; and nothing once it is undone.

STORAGE_LEDGER_DAMAGES: how many (40; scripts/faults: 1,000), STORAGE_LEDGER_SEED: which.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.signed_note import ED25519, VerifierKey
from storage_ledger.index.follower import Index
from storage_ledger.ledger.mirror import segments
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.operations.quarantine import Decision, DecisionTarget, decide
from storage_ledger.operations.verify.report import VerifyReport
from storage_ledger.operations.verify.selection import VerifyOptions, VerifyPaths
from storage_ledger.operations.verify.verification import Verification
from storage_ledger.pipeline.status_client import StatusClient
from tests.recovery.damage import DAMAGES, World
from tests.support.dicom import described, make_file
from tests.support.figures import note
from tests.support.making import Clock, Ledgers
from tests.support.pipeline import Pipeline
from tests.support.status_server import StatusServer

COUNT = int(os.environ.get("STORAGE_LEDGER_DAMAGES", "24"))
SEED = int(os.environ.get("STORAGE_LEDGER_SEED", "5"))
SEGMENT = 40
STUDIES = 24


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Make studies of all sorts, some unfinished, several mirror segments and an index; nothing is running."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "SEGMENT_ENTRIES", SEGMENT)
        made = World(folder / "here", folder / "saved", random.Random(SEED))
        _fill(made, Ledgers(tmp_path_factory.mktemp("template")))
    made.save()
    return made


def _fill(world: World, ledgers: Ledgers) -> None:
    server = StatusServer()
    client = StatusClient(server.url)
    pipeline = Pipeline(world.root, ledgers, client=client)
    mirror = Mirror(world.archive, world.root / "ledger" / "mirror.lock", pipeline.ledger)
    mirror.begin()
    try:
        _happen(pipeline, mirror)
        index = Index(world.index, pipeline.ledger)
        index.ensure()
        while index.follow():
            pass
        index.close()
    finally:
        pipeline.ledger.close()
        client.close()
        server.close()


def _happen(pipeline: Pipeline, mirror: Mirror) -> None:
    def send(study_id: str, name: str, seed: int) -> None:
        path = pipeline.uploads / name
        fields = make_file(path, seed=seed, rows=8, columns=8, PatientName=f"DOE^{seed}")
        pipeline.deliver(json.dumps(described(study_id, name, fields)).encode())

    for n in range(STUDIES):
        send(f"S{n}", f"S{n}.dcm", n)
        if n % 4 == 0:
            pipeline.finish()
            mirror.catch_up()
    for n in range(0, STUDIES, 5):  # other files, repeated files, different bytes under the same name
        send(f"S{n}", f"more-{n}.dcm", 100 + n)
        send(f"S{n}", f"S{n}.dcm", n + n % 2)
    pipeline.finish()
    pipeline.deliver(b"no event", b'{"study_id": "bad", "file_path": "../x"}', b'{"study_id": "S1", "file_path": "../x"}')
    pipeline.say("gone", "gone.dcm", {})
    pipeline.say("later", "later.dcm", {})
    pipeline.finish()  # both are quarantined
    for kind, study_id in ((Kind.DISCARDED, "gone"), (Kind.RELEASED, "later")):
        assert [answer.position for answer in decide(pipeline.ledger, Decision(kind, "me", "why"), [DecisionTarget(study_id)])] != [None]
    [archived] = [entry for entry in pipeline.ledger.study("S2") if entry.kind == Kind.ARCHIVED]
    file = {name: archived.data["file"][name] for name in ("name", "sha256")}
    header = {"file": file, "dicom": archived.data["dicom"] | {"StudyDescription": "read again"}, "software": "x"}
    times = dict.fromkeys(("ledger_time", "clock"), archived.recorded_at)
    with pipeline.ledger.write() as tx:
        tx.append(NewEntry(Kind.HEADER_READ, header, "S2", archived.position))
        tx.append(NewEntry(Kind.ACKNOWLEDGED, {"code": "clock-ahead", "by": "me", "reason": "why"} | times))
        tx.append(NewEntry(Kind.KEY, {"vkey": VerifierKey("x", ED25519, bytes(32)).text}))
    pipeline.say("again", "again.dcm", {})
    pipeline.say("again", "again.dcm", {})  # two pending messages about one upload
    send("told", "told.dcm", 800)
    pipeline.place()
    pipeline.remove()
    pipeline.tell()
    send("waiting", "waiting.dcm", 900)
    pipeline.place()
    mirror.catch_up()


def verified(world: World, **options: object) -> VerifyReport:
    places = VerifyPaths(world.ledger, world.index, world.archive, lambda: False)
    return Verification(
        places,
        VerifyOptions(settle_s=0.0, **options),  # type: ignore[arg-type]
        clock=Clock(),
        stopped=lambda: False,
        wait=lambda _: None,
        append=None,
    ).run()


def test_the_world_is_intact(world: World) -> None:
    report = verified(world)
    assert report.found.damaged == []
    assert report.found.unchecked == []
    assert report.parts == ["ledger", "mirror", "checkpoints", "pending", "files", "strangers", "index"]
    assert len(world.segments()) > 2
    assert {row[0] for row in world.ask("SELECT kind FROM entries")} >= set(Kind) - {
        Kind.VERIFIED,
        Kind.FAILED,
        Kind.RECOVERED,
        Kind.RESTORED,
    }
    assert {row[0] for row in world.ask("SELECT stage FROM pending")} == {"place", "remove", "tell", "confirm"}


@pytest.mark.timeout(7200)
def test_every_damage_is_named_at_its_place_and_nothing_else_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_ENTRIES", SEGMENT)
    wrong = []
    names = sorted(DAMAGES)
    for n in range(COUNT):
        name = names[n % len(names)] if n < len(names) or COUNT > 200 else world.rng.choice(names)
        world.rng = random.Random(f"{SEED} {n}")
        expected = list(DAMAGES[name](world))
        found = verified(world).found.damaged
        told = [(each.part, each.code, each.position, each.path, each.detail) for each in found]
        unnamed = [each for each in expected if not any(each.fits(one) for one in found)]
        too_many = [one for one in found if not any(each.fits(one) for each in expected)]
        if unnamed or too_many or len(found) != len(expected):
            wrong.append(f"{n} {name}: expected {expected}, found {told}")
        world.undo()
        if COUNT > 200 or n % 10 == 0:
            left = verified(world).found.damaged
            if left:
                wrong.append(f"{n} {name}: undone, and still found {left}")
        note("damages", points=n + 1, of=COUNT, studies=STUDIES, violations=len(wrong))
    assert not wrong, "\n".join(wrong)


def test_a_bit_of_each_segment_and_file_is_found_wherever_it_is(world: World) -> None:
    paths: list[Path] = [world.segments()[0], world.segments()[-1], world.metadata()[0]]
    for path in paths:
        data = path.read_bytes()
        for at in sorted(random.Random(SEED).sample(range(len(data)), 8)):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert [each.path for each in verified(world).found.damaged] == [world.relative(path)], at
        path.write_bytes(data)
    world.undo()


def test_a_page_of_the_ledgers_file_that_is_lost_is_told_as_damage_of_the_ledger(world: World) -> None:
    data = world.ledger.read_bytes()
    pages = range(1, len(data) // 4096)
    for page in random.Random(SEED).sample(pages, 5):
        world.ledger.write_bytes(data[: page * 4096] + bytes(4096) + data[(page + 1) * 4096 :])
        found = verified(world).found
        assert {each.part for each in found.damaged} == {"ledger"}, page
    world.ledger.write_bytes(data)
    world.undo()

"""The thread that signs checkpoints: when it signs, what it reports, and what it waits for. Each step is one turn of its loop."""

from __future__ import annotations

import os
import threading

import pytest

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.signed_note import SignedNote
from storage_ledger.ledger.proof import keys
from storage_ledger.pipeline.failures import Outages
from storage_ledger.pipeline.replicate import Replicator
from storage_ledger.pipeline.wakeups import Sleeper, Wakeups
from storage_ledger.service.checkpoint_signing import LOOK_EVERY_S, CheckpointSigning
from storage_ledger.system import locks
from storage_ledger.system.metrics import Metrics
from tests.support.checkpoint_scene import Scene
from tests.support.making import damage
from tests.support.waiting import until

EVERY_S = 3600.0


class Service:
    """One process after another on the same files."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.stops: threading.Event | None = None
        self.start()

    def start(self, every_s: float = EVERY_S) -> None:
        self.metrics = Metrics()
        self.signers = 0
        self.signing = CheckpointSigning(
            self.signer,
            self.leaf_hashes,
            self.scene.folder,
            self.scene.mirror,
            every_s=every_s,
            metrics=self.metrics,
            clock=self.scene.clock,
        )

    def signer(self, leaf_hashes):
        self.signers += 1
        return self.scene.signer(leaf_hashes=leaf_hashes)

    def leaf_hashes(self, after, up_to):
        """Stop the service while it reads."""
        if self.stops is not None:
            self.stops.set()
        return self.scene.ledger.leaf_hashes(after, up_to)

    def step(self) -> float:
        return self.signing.step()

    def sizes(self) -> list[int]:
        return self.scene.folder.sizes()

    def metric(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"storage_ledger_{name}")

    def grow(self, count: int = 1) -> None:
        self.scene.append(count)
        self.scene.mirrored()

    def written_ago(self, seconds: float) -> None:
        at = self.scene.clock().timestamp() - seconds
        os.utime(self.scene.notes / str(self.sizes()[-1]), (at, at))


@pytest.fixture
def service(tmp_path, ledgers, clock):
    return Service(Scene(tmp_path, ledgers, clock))


def test_first_checkpoint_is_signed_once_there_are_mirrored_entries_and_covers_its_key(service):
    assert (service.step(), service.sizes()) == (LOOK_EVERY_S, [])
    service.scene.append(3)
    assert (service.step(), service.sizes()) == (LOOK_EVERY_S, []), "they are not mirrored yet"
    assert service.signers == 0, "until then, no cryptography is loaded"
    service.scene.mirrored()
    assert (service.step(), service.sizes()) == (EVERY_S, [4])
    assert (service.metric("checkpoint_size"), service.metric("last_checkpoint_timestamp_seconds")) == (
        4,
        service.scene.clock().timestamp(),
    )


def test_nothing_is_signed_until_entries_were_appended(service):
    service.grow()
    service.step()
    assert (service.step(), service.sizes()) == (LOOK_EVERY_S, [2])
    service.grow()
    assert (service.step(), service.sizes()) == (EVERY_S, [2, 3])
    assert service.signers == 1, "it keeps what it has read of the ledger"


@pytest.mark.parametrize(("ago_s", "wait_s"), [(1000, EVERY_S - 1000), (0, EVERY_S), (-1000, EVERY_S)])
def test_time_since_the_last_checkpoint_counts_over_a_restart(service, ago_s, wait_s):
    service.grow()
    service.step()
    service.grow()
    service.written_ago(ago_s)
    service.start()
    assert (service.step(), service.sizes()) == (pytest.approx(wait_s), [2])
    assert service.metric("checkpoint_size") == 2
    assert (service.step(), service.sizes()) == (EVERY_S, [2, 3])


def test_checkpoint_that_is_overdue_after_a_restart_is_signed_at_once(service):
    service.grow()
    service.step()
    service.grow()
    service.written_ago(EVERY_S)
    service.start()
    assert (service.step(), service.sizes()) == (EVERY_S, [2, 3])


def test_fork_is_reported_while_it_lasts(service, log):
    service.grow(300)
    service.step()
    service.grow()
    before = service.scene.ledger.get(7).leaf_hash
    damage(service.scene.ledger, "UPDATE entries SET leaf_hash = randomblob(32) WHERE position = 7")
    service.start()
    service.written_ago(EVERY_S)
    waits = [service.step() for _ in range(4)]
    assert waits == sorted(set(waits))
    assert service.signing.trouble.code == "checkpoint-forked"
    assert service.signing.trouble.detail.endswith("; archiving continues")
    assert (service.metric("checkpoint_failing"), service.sizes()) == (1, [301])
    assert "checkpoint.failed" in log.getvalue()
    damage(service.scene.ledger, f"UPDATE entries SET leaf_hash = x'{before.hex()}' WHERE position = 7")
    assert service.step() == EVERY_S
    assert (service.signing.trouble, service.metric("checkpoint_failing"), service.sizes()) == (None, 0, [301, 302])


def test_ledger_that_is_shorter_than_its_checkpoint_is_reported_without_waiting(service):
    service.grow(5)
    other = keys.make(service.scene.root / "other.key", service.scene.signer().origin)
    head = Checkpoint(other.name, 50, bytes(32))
    service.scene.sign()
    service.scene.folder.publish(SignedNote(head.text, (other.sign(head.text),)))
    service.written_ago(0)
    service.step()
    assert service.signing.trouble.code == "checkpoint-forked"


def test_volume_that_fails_is_reported_from_the_second_time_on(service):
    service.grow()
    archive = service.scene.archive
    archive.rename(service.scene.root / "elsewhere")
    service.step()
    assert (service.signing.trouble, service.metric("checkpoint_failing")) == (None, 0)
    service.step()
    assert (service.signing.trouble.code, service.metric("checkpoint_failing")) == ("archive-missing", 1)
    (service.scene.root / "elsewhere").rename(archive)
    assert (service.step(), service.signing.trouble, service.sizes()) == (EVERY_S, None, [2])


def test_another_process_that_signs_is_not_waited_for(service):
    service.grow()
    with locks.held(service.scene.root / "checkpoint.lock", "checkpoint"):
        assert (service.step(), service.sizes()) == (LOOK_EVERY_S, [])
    assert service.signing.trouble is None
    assert (service.step(), service.sizes()) == (EVERY_S, [2])


@pytest.mark.parametrize("every_s", [0, EVERY_S])
def test_stop_ends_every_wait_and_zero_signs_nothing(service, every_s):
    service.grow()
    service.start(every_s)
    stop = threading.Event()
    thread = threading.Thread(target=service.signing.run, args=(stop,))
    thread.start()
    if every_s:
        until(service.sizes, 30)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert bool(service.sizes()) == bool(every_s)


def test_entries_that_signing_has_mirrored_are_announced_by_the_mirror_s_own_thread(service):
    scene, metrics, wakeups = service.scene, Metrics(), Wakeups()
    outages = Outages(scene.ledger, metrics)
    replicator = Replicator(scene.ledger, scene.mirror, outages=outages, metrics=metrics, clock=scene.clock, wakeups=wakeups)
    scene.append(1)
    scene.mirrored()
    service.step()
    replicator.follow()
    assert metrics.registry.get_sample_value("storage_ledger_mirror_position") == 2
    assert wakeups.of(Sleeper.NOTIFY).is_set()


def test_stop_ends_the_reading_of_a_ledger_of_any_size(service):
    service.grow(300)
    service.stops = threading.Event()
    service.signing.run(service.stops)
    assert (service.sizes(), service.signing.trouble) == ([], None)
    service.stops = None
    service.start()
    assert (service.step(), service.sizes()) == (EVERY_S, [301]), "the next process signs"

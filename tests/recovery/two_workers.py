"""Several processes do the same work item at the same time, and some are killed: a file once "placed" must stay, complete.

    python -m tests.recovery.two_workers FOLDER [--rounds 150] [--workers 2] [--seed 5] [--json FILE]

Each round is one study in one archive. Real processes, forked from this one, place the same upload at the same position, put the
same file back, or place two uploads of one name, and write metadata.json; the study is new, or its file is intact, damaged or missing.
As soon as a process has its result it reads the file back. Meanwhile this process keeps reading the name: a good file must stay
good. A killed process is replaced by one that begins the same work item again while the others continue. At the end a new process
does it once more, and nothing may be left but the files, metadata.json and the evidence of the damage.

Exit code 0, or 1 for violations; prints the counts as JSON. From the package it uses only the archive's and the uploads' classes, so
that it can be run with an older version: PYTHONPATH=<its tree> python -P <this file> FOLDER.
"""

# ruff: noqa: T201 - its counts are its output
from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import select
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from storage_ledger.archive.batch import TOGETHER_FROM
from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.uploads import Uploads
from storage_ledger.errors import Permanent, Retryable
from tests.support.placing import place_in

TRIES = 200
KILLED = 0.3  # of the rounds
SIZES = (1, 4_000, 150_000, 1_500_000, 3_000_000)
KINDS = ("new", "new", "two names", "metadata", "intact", "damaged", "damaged", "missing", "put back damaged", "put back missing")
Violation = dict[str, Any]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read(path: Path) -> bytes | None:
    """Read a file; None if there is none, or it is not a regular file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file, contextlib.suppress(OSError):
        return file.read()
    return None


# -- a worker


def work(archive: FilesystemArchive, uploads: Uploads, job: dict[str, Any]) -> dict[str, Any]:
    """Work like the place step: place, write metadata.json, finish; retry errors that may pass."""
    study, tries = job["study"], 0
    done: dict[str, Any] = {"codes": [], "metadata": []}
    while True:  # metadata.json may have several valid contents, one after another
        try:
            if "name" not in done and job["upload"]:
                with uploads.open(job["upload"]) as upload:
                    if job["put_back"]:
                        placed = archive.put_back(
                            upload, study, name=job["name"], sha256=job["owned"][job["name"]], position=job["position"], time=0
                        )
                    else:
                        placed = place_in(
                            archive,
                            upload,
                            job["name"],
                            study_id=study,
                            known=job["owned"],
                            position=job["position"],
                            studies=job["studies"],
                        )
                there = read(archive.root / study / placed.name)
                done |= {"name": placed.name, "placement": placed.placement, "set_aside": placed.set_aside}
                done |= {"sha256": placed.sha256, "there": None if there is None else digest(there)}
            while len(done["metadata"]) < len(job["metadata"]):
                archive.write_metadata(study, job["metadata"][len(done["metadata"])].encode())
                there = read(archive.root / study / "metadata.json")
                done["metadata"].append(None if there is None else digest(there))
            if archive.sync_new_folders([study]):
                done["codes"].append("lost")
        except Retryable as error:
            done["codes"].append(f"{error.code} {error.errno}")
            tries += 1
            if tries == TRIES:
                return done | {"gave_up": str(error)}
            continue
        except Permanent as error:
            return done | {"gave_up": str(error)}
        return done


@dataclass(slots=True)
class Worker:
    """A worker process and its two pipes."""

    pid: int
    jobs: BinaryIO
    results: BinaryIO

    @classmethod
    def start(cls, archive: Path, uploads: Path, others: list[Worker]) -> Worker:
        theirs, jobs = os.pipe()
        results, ours = os.pipe()
        pid = os.fork()
        if pid == 0:
            for other in others:
                other.jobs.close()
                other.results.close()
            os.close(jobs)
            os.close(results)
            with os.fdopen(theirs, "rb") as lines, os.fdopen(ours, "wb", buffering=0) as out:
                at, from_ = FilesystemArchive(archive), Uploads(uploads)
                for line in lines:
                    out.write(json.dumps(work(at, from_, json.loads(line))).encode() + b"\n")
            os._exit(0)
        os.close(theirs)
        os.close(ours)
        return cls(pid, os.fdopen(jobs, "wb", buffering=0), os.fdopen(results, "rb"))

    def kill(self) -> None:
        """Kill it; on return it has ended."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.jobs.close()
        self.results.close()


# -- a round


@dataclass
class Rounds:
    """One archive, its workers, and the violations found."""

    folder: Path
    rng: random.Random
    how_many: int = 2
    counts: Counter[str] = field(default_factory=Counter)
    found: list[Violation] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.archive, self.uploads = self.folder / "archive", self.folder / "uploads"
        self.archive.mkdir()
        self.uploads.mkdir()
        self.workers = []
        while len(self.workers) < self.how_many:
            self.workers.append(self._worker())

    def close(self) -> None:
        """End all workers."""
        while self.workers:
            self.workers.pop().kill()

    def run(self, number: int) -> None:
        """Run a round on one study."""
        rng, study, kind = self.rng, f"S{number}", self.rng.choice(KINDS)
        good = rng.randbytes(rng.choice(SIZES) + rng.randrange(100))
        other = rng.randbytes(len(good)) if kind == "two names" else good
        (self.uploads / "a").write_bytes(good)
        (self.uploads / "b").write_bytes(other)
        owned: dict[str, str] = {}
        damaged: bytes | None = None
        path = self.archive / study / "f.dcm"
        if kind not in {"new", "two names", "metadata"}:
            owned = {"f.dcm": digest(good)}
            path.parent.mkdir()
            if kind == "intact":
                path.write_bytes(good)
            elif "damaged" in kind:
                damaged = rng.choice((good[: len(good) // 2], bytes(len(good)), good + b"x"))
                path.write_bytes(damaged)
        wordings = [json.dumps({"study": study, "n": n, "fill": "x" * rng.choice((10, 3_000, 400_000, 6_000_000))}) for n in range(2)]
        jobs = [
            {
                "study": study,
                "upload": "" if kind == "metadata" else "ab"[n % 2],
                "name": "f.dcm",
                "owned": owned,
                "studies": rng.choice((1, TOGETHER_FROM)),
                "position": number * 2 + (n % 2 if kind == "two names" else 0),
                "metadata": [wordings[(n + time) % 2] for time in range(8)]
                if kind == "metadata"
                else [wordings[n % 2 if number % 2 else 0]],
                "put_back": kind.startswith("put back") and (number % 2 == 0 or n % 2 == 0),  # in turns beside one that places it
            }
            for n in range(self.how_many)
        ]
        answers = self._let_them(jobs, path, good, exists=kind in {"intact", "damaged", "put back damaged"}, number=number, kind=kind)
        self._judge(number, kind, answers, good, other, [digest(each.encode()) for each in wordings])
        self._at_the_end(number, kind, jobs, good, other, damaged)
        shutil.rmtree(self.archive / study, ignore_errors=True)
        shutil.rmtree(self.archive / ".ledger", ignore_errors=True)
        self.counts["rounds"] += 1

    def _let_them(
        self, jobs: list[dict[str, Any]], path: Path, good: bytes, *, exists: bool, number: int, kind: str
    ) -> list[dict[str, Any]]:
        """Let all workers run at the same time; one may be killed, and its successor repeats the work."""
        rng = self.rng
        victim = rng.randrange(self.how_many) if rng.random() < KILLED else None
        kill_at = time.monotonic() + rng.random() * (0.002 + len(good) / 150_000_000 + 0.01)
        watched = kind != "two names"
        was_good = False
        for worker, job in zip(self.workers, jobs, strict=True):
            worker.jobs.write(json.dumps(job).encode() + b"\n")
        answers: list[dict[str, Any]] = []
        waiting = {worker.results.fileno(): n for n, worker in enumerate(self.workers)}
        while waiting:
            if victim is not None and time.monotonic() >= kill_at:
                worker = self.workers[victim]
                if worker.results.fileno() in waiting:
                    del waiting[worker.results.fileno()]
                    worker.kill()
                    self.counts["killed"] += 1
                    self.workers[victim] = successor = self._worker(but=victim)
                    successor.jobs.write(json.dumps(jobs[victim]).encode() + b"\n")
                    waiting[successor.results.fileno()] = victim
                victim = None
            if watched:
                there = read(path)
                if there is None and (exists or was_good):
                    self._bad("name-without-a-file", number, kind)
                    exists = was_good = False
                elif was_good and there != good:
                    self._bad("good-file-gone", number, kind)
                    was_good = False
                elif there == good:
                    was_good = True
                self.counts["looks"] += 1
            ready, _, _ = select.select(list(waiting), [], [], 0.0003)
            for each in ready:
                worker = self.workers[waiting.pop(each)]
                answers.append(json.loads(worker.results.readline()))
        return answers

    def _judge(self, number: int, kind: str, answers: list[dict[str, Any]], good: bytes, other: bytes, wordings: list[str]) -> None:
        right = {digest(good), digest(other)}
        for answer in answers:
            self.counts["tried-again"] += len(answer["codes"])
            for code in answer["codes"]:
                self.counts[f"tried-again {code}"] += 1
            if "gave_up" in answer:
                self._bad("gave-up", number, kind, why=answer["gave_up"])
            if "name" in answer and (answer["there"] != answer["sha256"] or answer["there"] not in right):
                self._bad("placed-and-not-there" if answer["there"] is None else "placed-and-torn", number, kind)
            self.counts["metadata.json written"] += len(answer["metadata"])
            if set(answer["metadata"]) - set(wordings):
                self._bad("metadata-torn", number, kind)

    def _at_the_end(self, number: int, kind: str, jobs: list[dict[str, Any]], good: bytes, other: bytes, damaged: bytes | None) -> None:
        study = jobs[0]["study"]
        names = {} if kind == "metadata" else {"f.dcm": digest(good)}
        if kind == "two names":
            stood = read(self.archive / study / "f.dcm")
            first, second = (good, other) if stood == good else (other, good)
            names = {"f.dcm": digest(first), f"f~{digest(second)[:12]}.dcm": digest(second)}
        for name, sha256 in names.items():  # before anything is repaired
            there = read(self.archive / study / name)
            if there is None or digest(there) != sha256:
                self._bad("missing-at-the-end" if there is None else "torn-at-the-end", number, kind)
        archive, uploads = FilesystemArchive(self.archive), Uploads(self.uploads)
        for job in jobs:
            done = work(archive, uploads, {**job, "owned": names, "put_back": False, "metadata": ["the last word"]})
            found = done.get("there") in names.values() and done["placement"] == "already-there"
            if done["codes"] or not (found or kind == "metadata"):
                self._bad("not-found-again", number, kind, done=done)
        left = {path.name for path in (self.archive / study).iterdir()}
        left -= {name for name in left if name.startswith(".restore-")} if jobs[0]["put_back"] else set()
        if left != {*names, "metadata.json"}:
            self._bad("left-over", number, kind, names=sorted(left - {*names, "metadata.json"}))
        kept = [path.read_bytes() for path in (self.archive / ".ledger").glob(f"damaged/{study}/*")]
        if damaged is not None and damaged not in kept:
            self._bad("evidence-lost", number, kind)
        if any(each != damaged for each in kept):
            self._bad("good-file-set-aside", number, kind)

    def _worker(self, but: int | None = None) -> Worker:
        others = [worker for n, worker in enumerate(self.workers) if n != but]
        return Worker.start(self.archive, self.uploads, others)

    def _bad(self, code: str, number: int, kind: str, **more: Any) -> None:
        self.counts[code] += 1
        self.found.append({"code": code, "round": number, "kind": kind, **more})


CODES = (
    "placed-and-torn", "placed-and-not-there", "metadata-torn", "name-without-a-file", "good-file-gone", "gave-up", "missing-at-the-end",
    "torn-at-the-end", "not-found-again", "left-over", "evidence-lost", "good-file-set-aside",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Several processes on one work item, killed at random.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    rounds = Rounds(given.folder, random.Random(given.seed), given.workers)
    began = time.monotonic()
    try:
        for number in range(given.rounds):
            rounds.run(number)
            if number % 500 == 499:
                print(f"{number + 1} rounds, {time.monotonic() - began:.0f} s, {len(rounds.found)} violations", file=sys.stderr, flush=True)
    finally:
        rounds.close()
    result = {
        "counts": {**dict.fromkeys(CODES, 0), **dict(sorted(rounds.counts.items()))},
        "bad_rounds": len({each["round"] for each in rounds.found}),
        "violations": len(rounds.found),
        "found": rounds.found[:20],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text, encoding="utf-8")
    return 1 if rounds.found else 0


if __name__ == "__main__":
    sys.exit(main())

"""Break the code on purpose, one way at a time, in a copy of the tree, and report which test catches it.

    python -m tests.recovery.mutants [--list] [NAME …]

Exit code 0: every mutant was caught; 1: one survived; 2: one no longer fits the code, so fix the table. The first run is the
unbroken code, which must pass all tests. docs/reliability.md has the results.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.results import ROOT, conditions, write_table

DURABLE_COPY = "storage_ledger/archive/durable_copy.py"
FOLDERS = "storage_ledger/archive/folders.py"
STUDY_FOLDER = "storage_ledger/archive/study_folder.py"
LAYOUT = "storage_ledger/domain/paths.py"
UPLOADS = "storage_ledger/archive/uploads.py"
PLACER = "storage_ledger/pipeline/place/placer.py"
RECORDER = "storage_ledger/pipeline/place/recorder.py"
BATCH = "storage_ledger/archive/batch.py"
POOL = "storage_ledger/pipeline/worker_pool.py"
NOTIFIER = "storage_ledger/pipeline/notify.py"
SQLITE = "storage_ledger/system/sqlite.py"
STATUS = "storage_ledger/pipeline/status_client.py"
ENTRIES = "storage_ledger/domain/entries.py"
STUDY = "storage_ledger/domain/study.py"
METADATA_SYNC = "storage_ledger/service/metadata_sync.py"
MIRROR = "storage_ledger/ledger/mirror/writer.py"
LAST_SEGMENT = "storage_ledger/ledger/mirror/last_segment.py"
LEDGER = "storage_ledger/ledger/transaction.py"
CHECKPOINTS = "storage_ledger/ledger/proof/checkpoints.py"
SIGNER = "storage_ledger/ledger/proof/signer.py"


@dataclass(frozen=True)
class Edit:
    """`old` must be in `file` exactly once."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """`programmes`: those to run, in this order, until one catches it. `equivalent`: why none can."""

    what: str
    edits: tuple[Edit, ...] = ()
    programmes: tuple[str, ...] = ("order",)
    equivalent: str = ""


PLACE_FOLDER = Edit(
    STUDY_FOLDER,
    "                durable_copy.fsync(folder)\n            except OSError:\n                self.lost()\n",
    "                pass\n            except OSError:\n                self.lost()\n",
)
METADATA_RECOVERED = Edit(
    METADATA_SYNC, "            studies = self._ledger.studies_with_unsynced_metadata()\n", "            studies: list[str] = []\n"
)
METADATA_SYNCED = Edit(METADATA_SYNC, "            self._archive.sync_metadata()\n", "")
ARCHIVE_ROOT = Edit(FOLDERS, "                durable_copy.fsync(root if before is None else before)\n", "                pass\n")
UPLOADS_FOLDER = Edit(UPLOADS, "                    os.fsync(folder)\n", "                    pass\n")
COPIES_TOGETHER = Edit(BATCH, "        return self._sync_whole() if self._together else None\n", "        return None\n")
NAMES_TOGETHER = Edit(BATCH, "        error = self._sync_whole() if self._together else None\n", "        error = None\n")
COPY = Edit(DURABLE_COPY, "        fsync(descriptor)\n        return digest.hexdigest()\n", "        return digest.hexdigest()\n")
CHECKED_FILE = Edit(
    DURABLE_COPY,
    "        try:\n            fsync(descriptor)\n        except OSError:\n            return False",
    "        try:\n            pass\n        except OSError:\n            return False",
)
CHECKED_FOLDER = Edit(
    STUDY_FOLDER,
    "                    self._sync_name(folder, name, sha256)\n            except FileNotFoundError:\n",
    "                    pass\n            except FileNotFoundError:\n",
)
DAMAGED = Edit(STUDY_FOLDER, "                    durable_copy.fsync(aside)\n", "                    pass\n")
EVIDENCE_FIRST = Edit(
    STUDY_FOLDER,
    "                kept = durable_copy.keep_evidence(name if moved else spare,",
    "                put()\n                kept = durable_copy.keep_evidence(name if moved else spare,",
)
DAMAGED_PARENTS = Edit(FOLDERS, "        durable_copy.fsync(parent)\n", "        pass\n")

MUTANTS = {
    "no-fsync-of-the-copied-file": Mutant("the copied file is not fsynced before it is linked", (COPY,), ("cuts", "order")),
    "no-sync-of-copies-together": Mutant("the copies of many studies are not synced before they are linked", (COPIES_TOGETHER,)),
    "no-sync-of-names-together": Mutant("the names of many studies are not synced before they are recorded", (NAMES_TOGETHER,)),
    "metadata-not-recovered": Mutant("metadata.json is not compared with the ledger after a power cut", (METADATA_RECOVERED,), ("cuts",)),
    "metadata-noted-unsynced": Mutant("the ledger notes that metadata.json is durable, but nothing was synced", (METADATA_SYNCED,)),
    "no-fsync-of-the-study-folder": Mutant("the study's folder is not fsynced after the link and metadata.json", (PLACE_FOLDER,)),
    "no-fsync-of-the-archive": Mutant("ARCHIVE_PATH is not fsynced after a study's folder was made", (ARCHIVE_ROOT,)),
    "no-fsync-of-uploads": Mutant("the uploads folder is not fsynced after the upload was unlinked", (UPLOADS_FOLDER,)),
    "no-fsync-of-a-checked-file": Mutant("a file that is found in the archive is not fsynced", (CHECKED_FILE,)),
    "no-fsync-of-a-checked-folder": Mutant(
        "the folder of a file found in the archive is not fsynced", (CHECKED_FOLDER,), ("archive-contract",)
    ),
    "no-fsync-of-damaged": Mutant("the folder that keeps the evidence of a damaged file is not fsynced", (DAMAGED,)),
    "no-fsync-of-damaged-parents": Mutant("the folders above the evidence of a damaged file are not fsynced", (DAMAGED_PARENTS,)),
    "replaced-before-the-evidence": Mutant(
        "a damaged file is replaced before its evidence is kept", (EVIDENCE_FIRST,), ("archive-contract", "order")
    ),
    "temporary-names-shared": Mutant(
        "two processes write to temporary files of the same name",
        (Edit(LAYOUT, 'return f".{what}-{worker}-{epoch}.tmp"', 'return f".{what}.tmp"'),),
        ("workers",),
    ),
    "no-fsync-of-any-folder": Mutant(
        "no folder is fsynced",
        (PLACE_FOLDER, NAMES_TOGETHER, ARCHIVE_ROOT, UPLOADS_FOLDER, CHECKED_FOLDER, DAMAGED, DAMAGED_PARENTS),
        ("cuts", "order"),
    ),
    "fsync-of-the-archive-after-the-commit": Mutant(
        "ARCHIVE_PATH is fsynced, but after `archived` is committed",
        (
            Edit(PLACER, "            lost = self._archive.sync_new_folders(studies)\n", "            lost = set()\n"),
            Edit(
                RECORDER,
                "        log = logs.get()\n        for outcome in outcomes:\n",
                "        self._folds.archive.sync_new_folders({str(o.work_item.entry.study_id) for o in outcomes})\n"
                "        log = logs.get()\n        for outcome in outcomes:\n",
            ),
            Edit(PLACER, "        self._archive = archive\n", "        self._archive = self.folds.archive = archive\n"),
        ),
    ),
    "synchronous-normal": Mutant(
        "the ledger's commits are not synced",
        (Edit(SQLITE, "    level = (2 if wal else 3) if durable else 1\n", "    level = 1\n"),),
        ("cuts", "order"),
    ),
    "removed-before-archived": Mutant(
        "the upload is removed before `archived` is committed",
        (
            Edit(
                PLACER,
                "            return folder.copy(upload, position=described.position), upload.identity\n",
                "            copied = folder.copy(upload, position=described.position), upload.identity\n"
                "        self._uploads.remove(described.upload_path, copied[1], 1, settled=True)\n        return copied\n",
            ),
        ),
        ("kills", "cuts", "order"),
    ),
    "duty-dropped-before-removal": Mutant(
        "pending(remove) is dropped before the upload is removed",
        (
            Edit(
                POOL,
                "WorkerThreads(policy.thread, work, wakeup)",
                "WorkerThreads(policy.thread, _dropping(ledger, work) if policy.step == 'remove' else work, wakeup)",
            ),
            Edit(
                POOL,
                "class WorkerPool(Generic[Outcome]):\n",
                "def _dropping(ledger, work):\n    def drop(work_items):\n        with ledger.write() as tx:\n"
                "            for work_item in work_items:\n                tx.drop(work_item.entry.position, Stage.REMOVE)\n"
                "        return work(work_items)\n\n    return drop\n\n\nclass WorkerPool(Generic[Outcome]):\n",
            ),
        ),
        ("order", "kills"),
    ),
    "duty-dropped-before-telling": Mutant(
        "pending(tell) is dropped before the Status Service has answered",
        (
            Edit(
                NOTIFIER,
                "        status, details = self._status(study_id, rejected)\n        return Told(study_id, tells,",
                "        status, details = self._status(study_id, rejected)\n"
                "        with self._ledger.write() as tx:\n            for work_item in tells:\n"
                "                tx.drop(work_item.entry.position, work_item.stage)\n        return Told(study_id, tells,",
            ),
        ),
        ("order", "status", "kills"),
    ),
    "rename-over-a-name": Mutant(
        "the copy is renamed to its final name, over whatever has it",
        (
            Edit(
                DURABLE_COPY,
                "        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)\n",
                "        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)\n",
            ),
        ),
        ("order", "archive-contract"),
    ),
    "hash-not-compared": Mutant(
        "a file in the archive is taken for the right one by its length",
        (
            Edit(
                DURABLE_COPY,
                "os.fstat(descriptor).st_size != size or digest_of(descriptor) != sha256",
                "os.fstat(descriptor).st_size != size",
            ),
        ),
        ("order", "archive-contract"),
    ),
    "acknowledged-before-commit": Mutant(
        "a message of the stream is acknowledged before its entry is committed",
        (
            Edit(
                "storage_ledger/pipeline/receive/intake.py",
                "        judged = [self._judge(delivery) for delivery in deliveries]\n",
                "        self._source.acknowledge(deliveries)\n        judged = [self._judge(delivery) for delivery in deliveries]\n",
            ),
        ),
        ("order", "streams"),
    ),
    "told-and-removed-before-the-mirror": Mutant(
        "statuses are told and uploads removed before `archived` is in the mirror",
        (Edit(POOL, "up_to = self._up_to() if self._up_to else None", "up_to = None"),),
        ("mirror",),
    ),
    "no-fsync-of-the-mirror": Mutant(
        "the mirror's segment is not fsynced",
        (
            Edit(
                "storage_ledger/ledger/mirror/writer.py",
                "                os.fsync(descriptor)\n                state = ",
                "                state = ",
            ),
        ),
        ("cuts", "order"),
    ),
    "refusal-taken-for-an-answer": Mutant(
        "whatever the Status Service answers counts as told",
        (
            Edit(
                STATUS,
                "            _check_code(answer.code)\n            if answer.content_type",
                "            if answer.content_type",
            ),
        ),
        ("status-client",),
    ),
    "never-read-back": Mutant(
        "a status is told once and never read back",
        (Edit(NOTIFIER, "work_item=self._confirm_s > 0", "work_item=False"),),
        ("status",),
    ),
    "position-read-outside-the-transaction": Mutant(
        "writers do not wait for each other before they read the last position",
        (Edit(SQLITE, '"BEGIN IMMEDIATE" if self._writable else "BEGIN"', '"BEGIN"'),),
        ("kills",),
    ),
    "damaged-entry-believed": Mutant(
        "an entry is acted upon whatever its hashes say",
        (
            Edit(
                ENTRIES,
                "        if found := faults(entry):\n            raise",
                "        if False and (found := faults(entry)):\n            raise",
            ),
        ),
        ("damaged",),
    ),
    "missing-entry-not-missed": Mutant(
        "a study is folded without the entry that it lacks",
        (Edit(STUDY, "            if entry.version != version:\n", "            if False:\n"),),
        ("damaged",),
    ),
    "appended-after-damage": Mutant(
        "entries are appended after one whose time and position may not be believed",
        (Edit(LEDGER, "if last is not None and not has_whole_header(last):", "if False:"),),
        ("damaged",),
    ),
    "damaged-entry-mirrored": Mutant(
        "what is damaged in the ledger is mirrored like anything else",
        (Edit(MIRROR, "if not as_they_are and (damaged :=", "if False and (damaged :="),),
        ("damaged",),
    ),
    "note-published-unsynced": Mutant(
        "a checkpoint gets its name before its bytes are durable",
        (
            Edit(
                CHECKPOINTS,
                "            files.write_file(_TEMPORARY, note.data, folder, FILE_MODE)\n",
                "            files.write_file(_TEMPORARY, note.data, folder, FILE_MODE, fsync=lambda _: None)\n",
            ),
        ),
        ("signing",),
    ),
    "other-history-signed": Mutant(
        "a ledger is signed that does not continue its last checkpoint",
        (Edit(SIGNER, "            self._require_continued(last)\n", "            last = None\n"),),
        ("checkpoints",),
    ),
    "mirror-mended-from-damage": Mutant(
        "the mirror's last segment is rebuilt from what is damaged in the ledger",
        (Edit(LAST_SEGMENT, "        if own is not None and faults(own):\n", "        if False:\n"),),
        ("damaged",),
    ),
}

PROGRAMMES = {
    "order": ("tests/recovery/test_order.py",),
    "cuts": ("tests/recovery/test_power_cut.py",),
    "kills": ("tests/recovery/test_kill.py",),
    "status": ("tests/recovery/test_status_faults.py",),
    "redis": ("tests/recovery/test_redis_faults.py",),
    "workers": ("tests/recovery/test_two_workers.py",),
    "mirror": ("tests/integration/test_lost_volumes.py", "-k", "mirrored"),
    "streams": ("tests/recovery/test_stream_kill.py",),
    "archive-contract": ("tests/contract/archive/test_archive.py", "tests/contract/archive/test_two_processes.py"),
    "status-client": ("tests/integration/test_status_client.py",),
    "signing": ("tests/recovery/test_killed_signing.py",),
    "checkpoints": ("tests/contract/ledger/test_checkpoints.py",),
    "damaged": ("tests/contract/ledger/test_damaged_entries.py", "tests/contract/ledger/test_mirror.py"),
}
COPIED = ("docs", "storage_ledger", "tests", "alembic", "migrations.ini", "pyproject.toml")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="the names, and what each breaks")
    parser.add_argument("--programme", choices=PROGRAMMES, action="append", help="look here and nowhere else")
    parser.add_argument("--write", action="store_true", help="replace the result in docs/reliability.md; takes all mutants")
    parser.add_argument("--attempts", type=int, default=3, help="of a programme that works by chance (3)")
    arguments = parser.parse_args()
    if arguments.write and (arguments.names or arguments.programme):
        parser.error("--write replaces the whole table: leave out names and --programme")
    chosen = {name: MUTANTS[name] for name in arguments.names or MUTANTS}
    if arguments.list:
        for name, mutant in chosen.items():
            print(f"{name}: {mutant.what}")
        return 0
    for name, mutant in chosen.items():
        for edit in mutant.edits:  # otherwise it would break nothing, unnoticed
            if (ROOT / edit.file).read_text().count(edit.old) != 1:
                print(f"{name} no longer fits {edit.file}: update its `old` in {Path(__file__).name}", file=sys.stderr)
                return 2
    measured = conditions()
    alive, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        if not arguments.names:
            for programme in PROGRAMMES:
                if why := run(copy, (), programme):
                    print(f"the unbroken code does not pass {programme}: {why}", file=sys.stderr)
                    return 2
        for name, mutant in chosen.items():
            if mutant.equivalent:
                print(f"{name}: breaks no promise: {mutant.equivalent}", flush=True)
                continue
            began = time.monotonic()
            seen = {
                programme: why
                for programme in arguments.programme or mutant.programmes
                for _, why in attempts(copy, mutant, programme, arguments.attempts)
                if why
            }
            said = "; ".join(f"{programme}: {why}" for programme, why in seen.items()) or "LIVES"
            print(f"{name}: {mutant.what}: {said} ({time.monotonic() - began:.0f} s)", flush=True)
            rows.append((mutant.what, ", ".join(seen) or "nothing: it LIVES"))
            if not seen:
                alive.append(name)
    if arguments.write:
        alive_text = f", not by any programme: {', '.join(alive)}" if alive else ""
        seen_text = f"{len(rows) - len(alive)} of {len(rows)} mutants were noticed{alive_text}."
        write_table(ROOT / "docs" / "reliability.md", "mutants", f"{measured} {seen_text}")
    print(f"{len(rows) - len(alive)} of {len(rows)} seen" + (f"; alive: {', '.join(alive)}" if alive else ""))
    return 1 if alive else 0


def attempts(copy: Path, mutant: Mutant, programme: str, count: int):
    """Return number and output of the last attempt: the first that caught the mutant, or attempt `count`."""
    why = ""
    attempt = 0
    for attempt in range(1, (count if programme in {"cuts", "kills", "order"} else 1) + 1):
        if why := run(copy, mutant.edits, programme, seed=attempt):
            break
    yield attempt, why


def run(copy: Path, edits: tuple[Edit, ...], programme: str, seed: int = 0) -> str:
    """Run a programme on a copy with these edits; return its complaint, empty if it passes."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    for edit in edits:
        path = copy / edit.file
        path.write_text(path.read_text().replace(edit.old, edit.new))
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    if seed:
        environment["STORAGE_LEDGER_SEED"] = str(seed)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-vv", "-p", "no:cacheprovider", *PROGRAMMES[programme]],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0 and " skipped" in done.stdout.splitlines()[-1] and " passed" not in done.stdout.splitlines()[-1]:
        raise SystemExit(f"{programme} is skipped here: it can say nothing")
    if done.returncode == 0:
        return ""
    if done.returncode != 1:
        raise SystemExit(f"{programme} could not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    said = [line[1:].strip() for line in done.stdout.splitlines() if line.startswith("E ")]
    codes = re.findall(r"'code': '([a-z-]+)'", "\n".join(said))
    return ", ".join(dict.fromkeys(codes)) or (said or ["failed"])[0][:160]


if __name__ == "__main__":
    sys.exit(main())

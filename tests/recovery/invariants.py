"""The independent checker: reads files and databases by their documented formats and shares no code with the package.

    python invariants.py --uploads DIR --archive DIR --ledger DIR [--settled]

Prints {"violations": [...], "counts": {...}, "archived": [study_id, ...]}; exit code 1 if there is a violation.
`--settled`: the service has had time to finish, so unfinished work is a violation.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import sqlite3
import stat
import sys
from collections import Counter, defaultdict
from pathlib import Path

HEADER = ["cause", "entry_id", "kind", "payload_sha256", "position", "recorded_at", "schema", "study_id", "version"]
GROUPS = ["patient_info", "study_info", "modality_info", "exposure_info", "location_info"]
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
OUTCOMES = {"archived", "quarantined", "discarded"}
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Merkle:
    """A growing Merkle tree by RFC 6962 §2.1."""

    def __init__(self):
        self.subtrees = []  # (leaves, hash), the largest first

    def add(self, leaf):
        self.subtrees.append((1, leaf))
        while len(self.subtrees) > 1 and self.subtrees[-1][0] == self.subtrees[-2][0]:
            (count, right), (_, left) = self.subtrees.pop(), self.subtrees.pop()
            self.subtrees.append((2 * count, hashlib.sha256(b"\1" + left + right).digest()))

    def root(self):
        if not self.subtrees:
            return hashlib.sha256(b"").hexdigest()
        found = self.subtrees[-1][1]
        for _, left in self.subtrees[-2::-1]:
            found = hashlib.sha256(b"\1" + left + found).digest()
        return found.hex()


class Checker:
    def __init__(self, uploads, archive, ledger, settled, mirror=True):
        self.uploads, self.archive, self.ledger, self.settled = Path(uploads), Path(archive), Path(ledger), settled
        self.mirror = mirror  # set by tests of parts that keep no mirror
        self.violations = []
        self.entries = []
        self.pending = []

    def bad(self, code, **where):
        self.violations.append({"code": code, **where})

    def run(self):
        self.read_ledger()
        self.check_entries()
        self.check_archive()
        if self.mirror:
            self.check_mirror()
        self.check_uploads()
        self.check_duties()
        self.check_words_of_persons()
        self.check_told()
        self.check_index()
        archived = sorted({e["study_id"] for e in self.entries if e["kind"] == "archived"})
        return {"violations": self.violations, "counts": dict(Counter(e["kind"] for e in self.entries)), "archived": archived}

    def open(self, name):
        connection = sqlite3.connect(f"file:{self.ledger / name}?mode=ro", uri=True, timeout=30)
        connection.row_factory = sqlite3.Row
        return connection

    def read_ledger(self):
        connection = self.open("ledger.db")
        connection.execute("BEGIN")  # one snapshot, even while the service is running
        if connection.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
            self.bad("ledger-integrity")
        self.entries = [dict(row) for row in connection.execute("SELECT * FROM entries ORDER BY position")]
        self.pending = [dict(row) for row in connection.execute("SELECT * FROM pending")]
        self.ledger_id = connection.execute("SELECT value FROM meta WHERE name = 'ledger_id'").fetchone()[0]
        noted = connection.execute("SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'metadata_synced'").fetchone()
        self.metadata_synced = noted[0] if noted else 0
        connection.close()
        for entry in self.entries:
            entry["data"] = json.loads(entry["payload"])
        self.by_position = {e["position"]: e for e in self.entries}
        self.to_place = {self.by_position[row["position"]]["study_id"] for row in self.pending if row["stage"] == "place"}

    def check_entries(self):
        versions = Counter()
        ids = set()
        before = ""
        for expected, e in enumerate(self.entries, 1):
            at = {"position": e["position"]}
            if e["position"] != expected:
                self.bad("position-gap", **at)
            if e["study_id"] is not None:
                versions[e["study_id"]] += 1
                if e["version"] != versions[e["study_id"]]:
                    self.bad("version-gap", **at)
            elif e["version"] is not None:
                self.bad("version-without-study", **at)
            if e["entry_id"] in ids or not UUID7.fullmatch(e["entry_id"]):
                self.bad("entry-id", **at)
            ids.add(e["entry_id"])
            if not RFC3339.fullmatch(e["recorded_at"]) or e["recorded_at"] < before:
                self.bad("recorded-at", **at)
            before = e["recorded_at"]
            if e["cause"] is not None and not 0 < e["cause"] < e["position"]:
                self.bad("cause", **at)
            if canonical(e["data"]) != e["payload"].encode():
                self.bad("payload-not-canonical", **at)
            if len(e["salt"]) != 16 or hashlib.sha256(e["salt"] + e["payload"].encode()).hexdigest() != e["payload_sha256"]:
                self.bad("payload-hash", **at)
            if hashlib.sha256(b"\0" + canonical({name: e[name] for name in HEADER})).digest() != e["leaf_hash"]:
                self.bad("leaf-hash", **at)
            if e["kind"] == "rejected" and (e["study_id"] is not None or not e["data"].get("reason")):
                self.bad("rejected-shape", **at)

    def check_archive(self):
        """Invariants 3, 4, 5: each archived file is in the archive, once, complete, with its metadata.json; nothing else is."""
        files = defaultdict(dict)  # study → name → (sha256, bytes)
        origins = Counter()
        last_metadata = {}
        positions = {}
        adopted = set()  # adopted files keep the modes of the old service
        for e in self.entries:
            if e["kind"] != "archived":
                continue
            f = e["data"]["file"]
            known = files[e["study_id"]].get(f["name"])
            if known is not None and known != (f["sha256"], f["bytes"]):
                self.bad("name-with-two-digests", position=e["position"])
            if known is None:
                origins[e["study_id"], f["original_name"], f["sha256"]] += 1
            files[e["study_id"]][f["name"]] = (f["sha256"], f["bytes"])
            last_metadata[e["study_id"]] = e["data"]["metadata_sha256"]
            positions[e["study_id"]] = e["position"]
            if e["data"].get("adopted"):
                adopted.add((e["study_id"], f["name"]))
        for key, count in origins.items():
            if count > 1:
                self.bad("doubled-in-ledger", study_id=key[0], name=key[1])
        for study, names in files.items():
            folder = self.archive / study
            for name, (sha256, size) in names.items():
                data = self.read(folder / name)
                if data is None:
                    self.bad("archived-file-missing", study_id=study, name=name)
                elif len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
                    self.bad("archived-file-changed", study_id=study, name=name)
                elif stat.S_IMODE((folder / name).stat().st_mode) != 0o440 and (study, name) not in adopted:
                    self.bad("archived-file-mode", study_id=study, name=name)
            self.check_metadata(study, folder, names, last_metadata[study], synced=positions[study] <= self.metadata_synced)
        for folder in self.archive.iterdir():
            if folder.name in {".ledger", "lost+found"}:
                continue
            if not folder.is_dir() or (self.settled and folder.name not in files):
                self.bad("untracked-in-archive", path=folder.name)
                continue
            for path in folder.iterdir():
                tracked = path.name in files.get(folder.name, {}) or path.name == "metadata.json"
                if not tracked and self.settled:
                    self.bad("leftover-in-archive", path=f"{folder.name}/{path.name}")

    def check_metadata(self, study, folder, names, expected, *, synced):
        data = self.read(folder / "metadata.json")
        if data is None:
            self.bad("metadata-missing", study_id=study)
            return
        if hashlib.sha256(data).hexdigest() == expected and base64.b64encode(data).decode() in self.adopted_metadata(study):
            return  # as the old service left it
        try:
            document = json.loads(data)
        except ValueError:
            if self.settled or (synced and study not in self.to_place):
                self.bad("metadata-torn", study_id=study)
            return  # otherwise the next start writes it again
        if document.get("study_id") != study or any(not isinstance(document.get(group), dict) for group in GROUPS):
            self.bad("metadata-content", study_id=study)
        if not isinstance(document.get("validation_details"), dict) or not RFC3339.fullmatch(document.get("processing_time", "")):
            self.bad("metadata-content", study_id=study)
        if not self.settled:
            return
        if hashlib.sha256(data).hexdigest() != expected:
            self.bad("metadata-digest", study_id=study)
        if {(f["name"], f["sha256"], f["bytes"]) for f in document["files"]} != {(n, *d) for n, d in names.items()}:
            self.bad("metadata-files", study_id=study)

    def adopted_metadata(self, study):
        said = [e["data"] for e in self.entries if e["study_id"] == study and e["kind"] == "described"]
        return {data.get("raw") for data in said if data["source"] == "adopt" and not data.get("rewritten")}

    def check_mirror(self):
        """What was sent or removed is in the mirror; the mirror's entries are in the ledger, byte for byte; its roots are right."""
        tree, seen, open_batch, mirrored = Merkle(), 0, [], 0
        names = sorted(path.name for path in (self.archive / ".ledger").glob("*.entries")) if (self.archive / ".ledger").is_dir() else []
        for name in names:
            at = {"path": f".ledger/{name}"}
            if int(name.partition(".")[0]) != seen + 1 or open_batch:
                self.bad("mirror-segment", **at)
            *lines, torn = (self.archive / ".ledger" / name).read_bytes().split(b"\n")
            if torn and (self.settled or name != names[-1]):
                self.bad("mirror-torn", **at)
            for number, line in enumerate(lines, 1):
                kind, *fields = line.split(b"\t")
                body, _, digest = line.rpartition(b"\t")
                if kind != b"entry" and (hashlib.sha256(body).hexdigest().encode() != digest or fields[-4] != self.ledger_id.encode()):
                    self.bad("mirror-line", line=number, **at)
                if kind == b"entry":
                    e = self.by_position.get(seen + 1)
                    header = canonical({n: e[n] for n in HEADER}) if e else None
                    if e is None or fields != [e["leaf_hash"].hex().encode(), e["salt"].hex().encode(), header, e["payload"].encode()]:
                        self.bad("mirror-entry", line=number, **at)
                        return
                    tree.add(e["leaf_hash"])
                    seen += 1
                    open_batch.append(e["position"])
                elif kind == b"batch":
                    if fields[1:3] != [str(seen).encode(), tree.root().encode()]:
                        self.bad("mirror-root", line=number, **at)
                    mirrored, open_batch = seen, []
                elif kind != b"storage-ledger-mirror" or number != 1:
                    self.bad("mirror-line", line=number, **at)
            if open_batch and self.settled:
                self.bad("mirror-torn", **at)
        if self.settled and mirrored != len(self.entries):
            self.bad("mirror-lags", position=mirrored)
        work_items = {(row["position"], row["stage"]) for row in self.pending}
        for e in self.entries:
            told = e["data"]["tells"] if e["kind"] == "status-sent" else []
            removed = e["kind"] == "archived" and (
                (e["position"], "remove") not in work_items or not (self.uploads / e["data"]["upload_path"]).exists()
            )
            redelivered = e["kind"] == "archived" and e["data"]["placement"] == "already-there"  # its upload was gone before
            if any(position > mirrored for position in told):
                self.bad("told-before-mirrored", position=e["position"])
            if removed and not redelivered and e["position"] > mirrored:
                self.bad("removed-before-mirrored", position=e["position"])

    def read(self, path):
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                return None
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def check_uploads(self):
        """Invariant 2: every file has a complete copy; an archived upload that was removed stays removed."""
        outcome = {}
        for e in self.entries:
            path = e["data"].get("upload_path")
            if path is not None and e["kind"] in {"described", "archived", "quarantined"}:
                outcome[path] = e["kind"]
        for path, kind in outcome.items():
            upload = self.uploads / path
            # A link placed there later is not the archived upload, and the service must not remove it.
            if kind == "archived" and self.settled and upload.exists() and not upload.is_symlink():
                self.bad("upload-left", path=path)

    def check_duties(self):
        """Invariant 1: everything recorded and unfinished has a work item."""
        work_items = {(row["position"], row["stage"]) for row in self.pending}
        answered = {e["cause"] for e in self.entries if e["kind"] in {"archived", "quarantined"}}
        told = {p for e in self.entries if e["kind"] == "status-sent" for p in e["data"]["tells"]}
        waiting = defaultdict(list)
        for e in self.entries:
            key = (e["study_id"], e["data"].get("upload_path"))
            if e["kind"] == "described":
                if e["position"] in answered:
                    continue
                if (e["position"], "place") in work_items:
                    waiting[key].append(e)
                # a redelivery of a message pending at that time: that message's work item covers it
                elif not any(
                    o["data"]["message"] == e["data"]["message"] and (o["position"] in answered or (o["position"], "place") in work_items)
                    for o in self.entries
                    if o["kind"] == "described" and (o["study_id"], o["data"].get("upload_path")) == key and o is not e
                ):
                    self.bad("nobody-responsible", position=e["position"], stage="place")
            elif e["kind"] in OUTCOMES and not untold(e) and e["position"] not in told and (e["position"], "tell") not in work_items:
                self.bad("nobody-responsible", position=e["position"], stage="tell")
            elif e["kind"] == "released":  # retried since, or a work item is left
                position = e["data"]["described"]
                message = self.by_position[position]["data"]["message"]
                if (position, "place") not in work_items and not any(
                    o["kind"] in {"archived", "quarantined"}
                    and (o["study_id"], o["data"]["upload_path"]) == key
                    and self.by_position[o["cause"]]["data"]["message"] == message
                    for o in self.entries[e["position"] :]
                ):
                    self.bad("nobody-responsible", position=e["position"], stage="place again")
        for position, stage in work_items:
            if position not in self.by_position:
                self.bad("duty-without-entry", position=position, stage=stage)
            if self.settled and stage != "confirm":
                self.bad("duty-left", position=position, stage=stage)

    def check_words_of_persons(self):
        """Every `released` and `discarded` refers to the upload's latest entry, a `quarantined`, answered at most once."""
        last = {}
        for e in self.entries:
            key = (e["study_id"], e["data"].get("upload_path"))
            if e["kind"] in {"released", "discarded"}:
                cause = last.get(key)
                if cause is None or cause["kind"] != "quarantined" or cause["position"] != e["cause"]:
                    self.bad("word-on-what-is-not-quarantined", position=e["position"])
                elif e["data"].get("code") != cause["data"]["code"]:
                    self.bad("word-with-another-code", position=e["position"])
                if not e["data"].get("by") or not e["data"].get("reason"):
                    self.bad("word-of-nobody", position=e["position"])
                if e["kind"] == "released":
                    described = self.by_position.get(e["data"].get("described"))
                    if described is None or (described["study_id"], described["data"].get("upload_path"), described["kind"]) != (
                        *key,
                        "described",
                    ):
                        self.bad("released-without-described", position=e["position"])
            if e["kind"] in {"described", "archived", "quarantined", "released", "discarded"}:
                last[key] = e

    def check_told(self):
        """Invariant 6: the status is `failed` while a file is quarantined; else `archived` if a file is archived; else `failed`."""
        if not self.settled:
            return
        words = defaultdict(dict)  # study → upload → its last outcome
        lost = defaultdict(dict)  # study → upload → whether what it had brought was found to be lost
        told = {}
        for e in self.entries:
            if e["kind"] in OUTCOMES:
                path = e["data"]["upload_path"]
                if not untold(e):
                    words[e["study_id"]][path] = e["kind"]
                if e["kind"] == "archived":
                    lost[e["study_id"]][path] = False
                elif e["data"]["code"] in {"archive-copy-missing", "archive-copy-changed"}:
                    lost[e["study_id"]][path] = True
            elif e["kind"] == "status-sent":
                told[e["study_id"]] = e["data"]["status"]
        for study, outcomes in words.items():
            there = any(not gone for gone in lost[study].values())
            expected = "archived" if there and "quarantined" not in outcomes.values() else "failed"
            if told.get(study) != expected:
                self.bad("told-otherwise", study_id=study, expected=expected, told=told.get(study))

    def check_index(self):
        if not self.settled or not self.entries:  # an empty ledger may have no index yet
            return
        connection = self.open("index.db")
        position, ledger_id, leaf_hash = tuple(connection.execute("SELECT position, ledger_id, leaf_hash FROM progress").fetchone())
        if (position, ledger_id) != (len(self.entries), self.ledger_id) or (self.entries and leaf_hash != self.entries[-1]["leaf_hash"]):
            self.bad("index-progress", position=position)
        studies = {row["study_id"]: dict(row) for row in connection.execute("SELECT * FROM studies")}
        files = {(row["study_id"], row["name"]): dict(row) for row in connection.execute("SELECT * FROM files")}
        connection.close()
        expected = {e["study_id"] for e in self.entries if e["study_id"] is not None}
        if set(studies) != expected:
            self.bad("index-studies", missing=len(expected - set(studies)), extra=len(set(studies) - expected))
        archived = {(e["study_id"], e["data"]["file"]["name"]): e["data"]["file"] for e in self.entries if e["kind"] == "archived"}
        if {k: (v["sha256"], v["bytes"]) for k, v in files.items()} != {k: (v["sha256"], v["bytes"]) for k, v in archived.items()}:
            self.bad("index-files")
        told = {e["study_id"]: e["data"]["status"] for e in self.entries if e["kind"] == "status-sent"}
        for study, row in studies.items():
            if row["status_sent"] != told.get(study):
                self.bad("index-status", study_id=study)


def untold(entry):
    """Return whether it is an adopted file, whose status the old service sent long ago."""
    return entry["data"].get("adopted", False) and not entry["data"].get("tell", False)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("uploads", "archive", "ledger"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--settled", action="store_true")
    found = Checker(**vars(parser.parse_args())).run()
    json.dump(found, sys.stdout)
    sys.exit(1 if found["violations"] else 0)


if __name__ == "__main__":
    main()

"""The output of each command with --json has exactly the keys named in docs/reference/commands.md."""

from __future__ import annotations

import json

import typer.main

from scripts.reference_pages.json_keys import JSON_KEYS
from storage_ledger.cli.main import app
from tests.integration.test_the_way_of_one_event import upload
from tests.support.stack import Stack
from tests.support.waiting import until

WHO = ("--by", "Jane Doe", "--reason", "to see what it prints")
POSTGRES = "a database"
CALLS = {
    "status": ["status"],
    "show": ["show", "kept"],
    "explain": ["explain", "archive-full"],
    "acknowledge": ["acknowledge", "clock-ahead", *WHO],
    "quarantine list": ["quarantine", "list"],
    "quarantine show": ["quarantine", "show", "lost"],
    "quarantine retry": ["quarantine", "retry", "lost", *WHO],
    "quarantine discard": ["quarantine", "discard", "lost", *WHO],
    "checkpoint": ["checkpoint"],
    "checkpoint rotate-key": ["checkpoint", "rotate-key", *WHO],
    "prove": ["prove", "kept", "--output", "proof"],
    "verify": ["verify"],
    "replay": ["replay", "--metadata"],
    "backup": ["backup", "backups"],
    "restore": ["restore", "--from-mirror"],
    **{f"repair {part}": ["repair", part] for part in ("index", "files", "metadata", "statuses", "mirror", "headers")},
    "reconcile": ["reconcile"],
    "adopt": ["adopt", "--dry-run"],
    "copy-ledger": ["copy-ledger", "--to", POSTGRES],  # the last one: the ledger is moved
}


def test_each_command_prints_the_keys_that_its_reference_names(tmp_path, valkey, status_server, postgres_server, warm):
    assert CALLS.keys() == JSON_KEYS.keys() == with_json() - {"demo"}
    stack = Stack(tmp_path, valkey, status_server.url, warm=warm, MISSING_FILE_GRACE_SECONDS=0)
    try:
        stack.start()
        stack.publish(upload(stack, "kept")[0])
        stack.publish({"study_id": "lost", "file_path": "lost.dcm"})
        until(lambda: (status_server.status("kept"), status_server.status("lost")) == ("archived", "failed"), 30)
        until(stack.idle, 30)
        assert stack.stop() == 0
        database = postgres_server.schema()
        assert {name: keys(stack, name, database) for name in CALLS} == {name: documented(name) for name in CALLS}
    finally:
        stack.close()


def keys(stack, name, database):
    done = stack.command(*(database if word == POSTGRES else word for word in CALLS[name]), "--json")
    printed = json.loads(done.stdout)
    if JSON_KEYS[name].listed:
        [printed] = printed
    return printed.keys()


def documented(name):
    described = JSON_KEYS[name]
    return described.keys.keys() | (documented(described.like) if described.like else set())


def with_json() -> set[str]:
    """The commands that have the option."""

    def walk(name, command):
        for sub, each in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {sub}".strip(), each)
        if any("--json" in param.opts for param in command.params):
            yield name

    return set(walk("", typer.main.get_command(app)))

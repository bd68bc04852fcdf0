"""Which service of compose.yaml reaches which, in network namespaces: a switch for each network, a wire for each service in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

COMPOSE = yaml.safe_load((Path(__file__).resolve().parents[2] / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
NETWORKS = {name: list(service.get("networks", ["default"])) for name, service in SERVICES.items()}
PORTS = {name: int(service["ports"][0].rpartition(":")[2]) for name, service in SERVICES.items()}

REACHES = {
    "redis": {"status-service", "storage-service"},
    "status-service": {"redis", "storage-service"},
    "storage-service": {"redis", "status-service", "datasette"},
    "datasette": {"storage-service"},
}

# Listens on a port of all addresses; for each line with addresses, tells which of them accept a connection.
PROGRAM = """
import json, socket, sys
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
for line in sys.stdin:
    reached = []
    for name, host, port in json.loads(line):
        try:
            socket.create_connection((host, port), 1).close()
        except OSError:
            continue
        reached.append(name)
    print(json.dumps(reached), flush=True)
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def namespace(name: str) -> Iterator[str]:
    name = f"sl{os.getpid()}-{name}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no network namespaces here")
    try:
        ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        ip("netns", "delete", name)


@contextmanager
def stack() -> Iterator[dict[str, tuple[subprocess.Popen[str], list[str]]]]:
    """Yield a process in each service's namespace, and the service's addresses."""
    with ExitStack() as held:
        found: dict[str, tuple[subprocess.Popen[str], list[str]]] = {}
        places = {name: held.enter_context(namespace(name)) for name in SERVICES}
        addresses: dict[str, list[str]] = {name: [] for name in SERVICES}
        for number, network in enumerate(sorted({each for networks in NETWORKS.values() for each in networks})):
            switch = held.enter_context(namespace(f"net{number}"))
            ip("-n", switch, "link", "add", "switch", "type", "bridge")
            ip("-n", switch, "link", "set", "switch", "up")
            for host, service in enumerate(sorted(SERVICES), 2):
                if network not in NETWORKS[service]:
                    continue
                ip("-n", switch, "link", "add", f"v{host}", "type", "veth", "peer", "name", f"eth{number}", "netns", places[service])
                ip("-n", switch, "link", "set", f"v{host}", "master", "switch", "up")
                address = f"10.77.{number}.{host}"
                ip("-n", places[service], "address", "add", f"{address}/24", "dev", f"eth{number}")
                ip("-n", places[service], "link", "set", f"eth{number}", "up")
                addresses[service].append(address)
        for service, place in places.items():
            command = ["ip", "netns", "exec", place, sys.executable, "-c", PROGRAM, str(PORTS[service])]
            process = held.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            held.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            found[service] = (process, addresses[service])
        yield found


def test_each_service_reaches_what_it_needs_and_the_page_only_the_readiness_of_the_service():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces take root and ip")
    with stack() as running:
        for service, (process, _) in running.items():
            others = [(name, host, PORTS[name]) for name, (_, hosts) in running.items() if name != service for host in hosts]
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(others) + "\n")
            process.stdin.flush()
            assert set(json.loads(process.stdout.readline())) == REACHES[service], service


def test_the_page_asks_the_service_by_a_network_that_leads_nowhere_else():
    assert COMPOSE["networks"]["readiness"] == {"internal": True}
    assert [name for name, networks in NETWORKS.items() if "readiness" in networks] == ["storage-service", "datasette"]
    assert SERVICES["datasette"]["environment"]["BROWSE_SERVICE_URL"] == f"http://storage-service:{PORTS['storage-service']}"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_a_limit_of_processes_and_no_rights(service: str):
    given = SERVICES[service]
    assert 0 < given["pids_limit"] <= 512
    assert given["cap_drop"] == ["ALL"]
    assert given["read_only"] is True
    assert "no-new-privileges:true" in given["security_opt"]
    assert given["user"].partition(":")[0] != "0"


def test_the_page_has_a_limit_of_memory():
    assert SERVICES["datasette"]["mem_limit"] == "${DATASETTE_MEMORY:-1g}"


@pytest.mark.parametrize("password", ["", "s3cret-word"])
def test_redis_asks_for_the_password_that_is_set(password: str, tmp_path: Path):
    """The command of compose.yaml, with a stand-in for the server that says what it gets."""
    redis = SERVICES["redis"]
    server = tmp_path / "redis-server"
    server.write_text('#!/bin/sh\nprintf "%s\\n" "$*"\ncat\n')
    server.chmod(0o755)
    secret = tmp_path / "secret"
    for as_file in (False, True):
        secret.write_text(password if as_file else "")
        command = [part.replace("$$", "$").replace("/run/secrets/redis-password", str(secret)) for part in redis["command"]]
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDIS_PASSWORD": "" if as_file else password}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        arguments, _, config = done.stdout.partition("\n")
        assert arguments.startswith("- --appendonly yes --appendfsync everysec")
        assert password not in arguments.split()
        assert config.strip() == (f'requirepass "{password}"' if password else "")

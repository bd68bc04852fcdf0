"""What is promised about locks, migrations and version; needs no network."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import storage_ledger

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ["run.txt", "dev.txt", "docs.txt", "image.txt"]
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)( ; .+?)?( --hash=sha256:[0-9a-f]{64})+")


def requirements(lock: str) -> list[str]:
    """The lock's requirements, each in one line."""
    text = (ROOT / "locks" / lock).read_text()
    return [" ".join(line.split()) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def pins(lock: str) -> dict[str, set[Version]]:
    found: dict[str, set[Version]] = {}
    for match in filter(None, map(PIN.fullmatch, requirements(lock))):
        found.setdefault(canonicalize_name(match["name"]), set()).add(Version(match["version"]))
    return found


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def unmet(wanted: list[str], lock: str) -> list[str]:
    """Those of `wanted` that the lock does not pin, or pins at a version they do not allow."""
    locked = pins(lock)
    return [
        text
        for text in wanted
        if not (versions := locked.get(canonicalize_name(Requirement(text).name)))
        or not all(Requirement(text).specifier.contains(version) for version in versions)
    ]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_of_a_lock_is_an_exact_version_with_hashes(lock):
    lines = requirements(lock)
    assert lines
    assert [line for line in lines if not PIN.fullmatch(line)] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_place_that_packages_come_from(lock):
    text = (ROOT / "locks" / lock).read_text()
    assert re.findall(r"\S*://\S*|--\S*index-url|--find-links| @ ", text) == []


def test_every_direct_dependency_is_in_the_run_lock_at_a_version_that_it_allows():
    assert unmet(project()["dependencies"], "run.txt") == []


def test_every_extra_is_in_the_development_lock_at_a_version_that_it_allows():
    extras = [text for extra in project()["optional-dependencies"].values() for text in extra]
    assert unmet([text for text in extras if Requirement(text).name != project()["name"]], "dev.txt") == []


def test_the_tools_for_docs_and_image_are_in_their_locks_at_a_version_that_is_allowed():
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert unmet(document["dependency-groups"]["docs"], "docs.txt") == []
    assert unmet(document["dependency-groups"]["image"], "image.txt") == []


def test_development_uses_the_versions_that_run():
    development = pins("dev.txt")
    assert {name: versions for name, versions in pins("run.txt").items() if development.get(name) != versions} == {}


def test_the_folder_of_migrations_is_no_package_that_would_shadow_the_library():
    assert (ROOT / "alembic" / "env.py").is_file()
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_the_version_is_written_the_way_pep_440_wants_it():
    assert str(Version(storage_ledger.__version__)) == storage_ledger.__version__

"""What the docs name exists, and what exists is named: settings, commands, kinds, metrics, tables, files."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import links
import pytest
import typer.main
import yaml

from storage_ledger.cli.main import app
from storage_ledger.domain import canonical_json, payloads
from storage_ledger.domain.entries import Entry, Kind
from storage_ledger.domain.error_catalogue.catalogue import codes
from storage_ledger.settings import Settings
from storage_ledger.system.metrics import Metrics
from storage_ledger.web.auth.credentials import BrowseSettings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PACKAGE = ROOT / "storage_ledger"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
CURRENT = [path for path in PAGES if path.name != "CHANGELOG.md" and path.parent.name != "adr"]
"""Without the pages that describe an earlier time."""


def sections(page: str) -> dict[str, str]:
    """The text under each heading of a reference page, by the heading's text."""
    parts = re.split(r"^#+ (.+)$", (REFERENCE / page).read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# -- pages that are generated from the code


def test_every_generated_page_is_what_the_code_says():
    checked = subprocess.run([sys.executable, ROOT / "scripts" / "reference.py", "--check"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


# -- settings


def settings() -> set[str]:
    """Every variable that the program reads."""
    fields = {name.upper() for name in {**Settings.model_fields, **BrowseSettings.model_fields}}
    return fields | {option.envvar for _, option in options() if isinstance(getattr(option, "envvar", None), str)}


def compose_defaults(name: str = "compose.yaml") -> dict[str, str]:
    """The variables that a compose file takes from .env, with their defaults."""
    return dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", (ROOT / name).read_text()))


def test_no_other_service_of_compose_sees_the_key_of_checkpoints():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    key = services["storage-service"]["environment"]["CHECKPOINT_KEY_FILE"]
    [volume] = [each for each in services["storage-service"]["volumes"] if key.startswith(each.rpartition(":")[2] + "/")]
    for name, service in services.items():
        seen = [each for each in service.get("volumes", []) if "/app/key" in each or volume.partition(":-")[0] in each]
        assert seen == ([volume] if name == "storage-service" else [])
        assert "CHECKPOINT_KEY_FILE" not in service["environment"] or name == "storage-service"
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r"install -d -o .* -m 0700 /app/key ", dockerfile), "a new volume takes owner and mode from the image"


def test_no_page_and_no_message_names_a_setting_that_does_not_exist():
    known = settings() | compose_defaults().keys() | compose_defaults("compose.receive.yaml").keys()
    first_words = {name.partition("_")[0] for name in known} - {"STORAGE"}
    named = re.compile(rf"\b(?:{'|'.join(first_words)})_[A-Z_]*[A-Z]\b")
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in [*CURRENT, *(PACKAGE / "cli").glob("*.py"), ROOT / "Dockerfile"]
        for name in set(named.findall(path.read_text())) - known
    ]
    assert wrong == []


def test_the_example_environment_has_every_variable_of_compose_with_its_default_and_no_other():
    lines = re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)
    assert len(lines) == len(dict(lines))
    assert dict(lines) == compose_defaults()


# -- commands


def commands() -> dict[str, Any]:
    """`storage-ledger quarantine list` → its click command; groups too, when they have options of their own."""
    found = {}

    def walk(name: str, command: Any) -> None:
        if hasattr(command, "commands"):
            for sub, each in command.commands.items():
                walk(f"{name} {sub}", each)
        if not hasattr(command, "commands") or arguments(command):
            found[name] = command

    walk("storage-ledger", typer.main.get_command(app))
    return found


def arguments(command: Any) -> list[Any]:
    return [each for each in command.params if "--help" not in each.opts]


def options() -> Iterator[tuple[str, Any]]:
    for name, command in commands().items():
        for option in arguments(command):
            yield name, option


def test_nobody_is_told_to_take_this_project_from_an_index_where_it_is_not():
    for path in [*PAGES, *PACKAGE.rglob("*.py")]:
        assert not re.search(r"pip install[^`.]*storage-ledger", path.read_text()), path


def test_every_command_that_a_page_shows_exists():
    known = {tuple(name.split()[1:]) for name in commands()} | {tuple(name.split()[1:-1]) for name in commands()}
    wrong = []
    for path in CURRENT:
        text = path.read_text()
        shown = re.findall(r"(?:`|^\s*|\s)storage-ledger ([a-z][a-z -]*[a-z])", "\n".join(literal(text)), flags=re.MULTILINE)
        unknown = [each for each in shown if not any(tuple(each.split())[: len(words)] == words for words in known if words)]
        wrong += [f"{path.relative_to(ROOT)}: storage-ledger {each}" for each in unknown]
    assert wrong == []


def literal(text: str) -> list[str]:
    """Code blocks of a shell, and code between backticks."""
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return blocks + re.findall(r"`(storage-ledger [^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def test_the_section_of_a_command_names_each_of_its_options_and_an_option_is_described_once():
    shown = {name: text for name, text in sections("commands.md").items() if name in commands()}
    for name, option in options():
        if name in shown and option.opts[0].startswith("--") and option.opts[0] != "--json":
            assert f"`{option.opts[0]}" in shown[name], name
    described = [line for text in shown.values() for line in re.findall(r"^- `--.*: (.*)$", text, flags=re.MULTILINE)]
    long = [text for text in described if len(text.split()) > 4]
    assert sorted(set(long)) == sorted(long)


# -- entry kinds


def test_every_kind_has_its_section_and_every_section_its_kind():
    headings = set(sections("entry-kinds.md")) - {"Entry kinds"}
    assert headings == {kind.value for kind in Kind}


@pytest.mark.parametrize("kind", Kind)
def test_the_example_of_a_kind_is_canonical_and_its_fields_are_described(kind):
    text = sections("entry-kinds.md")[kind]
    example = re.findall(r"^```json\n(.*?)\n```", text, flags=re.MULTILINE | re.DOTALL)[0]
    entry = Entry(1, "", None, None, kind, 1, "", None, example, "", b"", b"")
    assert canonical_json.dumps(payloads.of(entry).stored()) == example
    described = {
        name.split(".")[0] for line in re.findall(r"^- (`.*?):", text, flags=re.MULTILINE) for name in re.findall(r"`([^`]+)`", line)
    }
    assert entry.data.keys() <= described


# -- metrics


def metrics() -> dict[str, set[str]]:
    """Name as Prometheus shows it → its labels."""
    found = {}
    for name, instrument in vars(Metrics()).items():
        if name == "registry":
            continue
        shown = instrument._name + ("_total" if instrument._type == "counter" else "")
        found[shown] = set(instrument._labelnames)
    return found


def series() -> set[str]:
    """Every name that a query may use."""
    return metrics().keys() | {f"storage_ledger_archive_seconds_{part}" for part in ("bucket", "sum", "count")}


def test_the_metrics_page_names_what_the_service_renders():
    rendered = {line.split()[2] for line in Metrics().render().decode().splitlines() if line.startswith("# TYPE")}
    shown = {name for name in rendered if not name.endswith("_created")}
    page = (REFERENCE / "metrics.md").read_text()
    assert shown == metrics().keys() == set(re.findall(r"^- `(storage_ledger_\w+)` \(", page, flags=re.MULTILINE))


def test_no_page_names_a_metric_that_does_not_exist():
    wrong = []
    for path in [*PAGES, DOCS / "how-to" / "alerts.yaml"]:
        wrong += [
            f"{path.relative_to(ROOT)}: {name}" for name in re.findall(r"\bstorage_ledger_\w+", path.read_text()) if name not in series()
        ]
    assert wrong == []


def alerts() -> list[dict[str, Any]]:
    document = yaml.safe_load((DOCS / "how-to" / "alerts.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def test_the_example_alerts_are_rules_with_all_that_a_rule_needs():
    assert len({rule["alert"] for rule in alerts()}) == len(alerts()) > 5
    for rule in alerts():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["annotations"]["summary"]
        assert re.fullmatch(r"\d+[smhd]", rule.get("for", "0s"))
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_the_example_alerts_match_labels_that_exist():
    known = {"code": set(codes()), "stage": {"place", "remove", "tell", "confirm"}, "volume": {"uploads", "archive", "ledger"}}
    seen = 0
    for rule in alerts():
        for name, matchers in re.findall(r"(storage_ledger_\w+)\{([^}]*)\}", rule["expr"]):
            for label, operator, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers):
                assert label in metrics()[name]
                assert label not in known or set(value.split("|") if "~" in operator else [value]) <= known[label]
                seen += 1
    assert seen


# -- links


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_that_exist(path):
    assert list(links.broken(path)) == []


def test_a_link_to_a_file_or_a_heading_that_does_not_exist_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# One `name`, twice\n\n# One name twice\n")
    (tmp_path / "page.md").write_text(
        "# Here\n\n[a](other.md) [b](other.md#one-name-twice) [c](other.md#one-name-twice-1) [d](#here) [e](https://example.org/x)\n\n"
        "```sh\n[no](link.md)\n```\n\n[f](gone.md), `[no](link.md)`\n"
        "[g](other.md#three) ![h](gone.png) [i][ref] [j](#there)\n\n[ref]: gone.md\n"
    )
    assert list(links.broken(tmp_path / "page.md")) == [
        (9, target) for target in ("gone.md", "other.md#three", "gone.png", "gone.md", "#there")
    ]


def test_every_page_can_be_reached_from_the_map():
    reached: set[Path] = set()
    waiting = [DOCS / "index.md"]
    while waiting:
        path = waiting.pop()
        reached.add(path)
        found = {(path.parent / target.partition("#")[0]).resolve() for _, target in links.links(path) if target.partition("#")[0]}
        waiting += [each for each in found if each.suffix == ".md" and each.is_file() and each not in reached and each not in waiting]
    assert set(PAGES) - reached == set()

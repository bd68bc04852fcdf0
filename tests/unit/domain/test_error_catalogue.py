"""The catalogue of error codes is whole: every code of the program stands there, no other, and each with what a person needs."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner

from storage_ledger.archive.contract import Fixity
from storage_ledger.cli.main import app
from storage_ledger.domain.error_catalogue.attention import ATTENTION
from storage_ledger.domain.error_catalogue.catalogue import SECTIONS, codes, meanings
from storage_ledger.domain.error_catalogue.explanation import plain
from storage_ledger.domain.error_catalogue.flags_and_headers import FLAGS
from storage_ledger.domain.error_catalogue.outages import OUTAGES
from storage_ledger.domain.error_catalogue.quarantined_files import QUARANTINED_FILES
from storage_ledger.domain.error_catalogue.retries import RETRIES
from storage_ledger.operations.report import flags, remedies
from storage_ledger.web.pages import error_codes

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "storage_ledger"

PUT_TOGETHER = {
    "archive-copy-{}": [Fixity.MISSING.value, Fixity.CHANGED.value],
    "{}-missing": ["uploads", "archive", "ledger"],
    "{}-not-regular": ["file", "metadata"],
}
"""Codes that are put together: what can stand in the gap."""

OTHER_NAMES = {
    "already-there", "header-read", "older-than", "status-sent", "to-be-continued",  # placement, kinds, a selection, an outcome
    "execute-sql", "view-database", "view-instance", "view-query", "view-table",  # permissions of Datasette
    "dicom-web", "zip-study", "proof-study",  # routes
    "content-security-policy", "cross-origin-opener-policy", "cross-origin-resource-policy", "if-none-match", "if-range", "no-store",
    "referrer-policy", "retry-after", "same-origin", "strict-transport-security",
    "x-content-type-options", "x-frame-options",
    "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix", "transfer-syntax",  # headers of HTTP, and values
    "latin-1", "utf-8", "utf-8-sig",  # encodings
    "browse-ended-logins", "browse-secret",  # files
    "copy-ledger",  # a command
    "redis-server", "rotate-key", "status-service", "storage-ledger", "storage-ledger-mirror", "valkey-server",  # programs and commands
    "dicom-json", "dicom-xml", "linear-exact",  # requests to an image worker
    "0-0", "not-ready", "not-asked", "service-watch",  # an id of a stream, states of the service, a thread
}  # fmt: skip
"""Texts of the program in kebab case that are no error codes."""


def texts() -> Iterator[str]:
    """Every text that stands in the program outside the catalogue; of one that is put together each that it can become."""
    for path in PACKAGE.rglob("*.py"):
        if "error_catalogue" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                pattern = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
                yield from (pattern.format(part) for part in PUT_TOGETHER.get(pattern, ()))


def test_every_code_of_the_program_is_in_the_catalogue():
    kebab = {text for text in texts() if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", text)}
    assert len(kebab) > 150  # it does find them
    assert kebab - set(codes()) - OTHER_NAMES == set()


def test_nothing_is_in_the_catalogue_that_cannot_occur():
    assert set(codes()) - set(texts()) == set()


def test_the_program_decides_by_the_name_of_a_code_not_by_its_text():
    """A misspelt name does not pass mypy; `storage_ledger/errors.py` has them."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        compared = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Compare)]
        texts = [part for node in compared for part in ast.walk(node) if isinstance(part, ast.Constant) and "-" in str(part.value)]
        wrong += [f"{path.relative_to(PACKAGE)}:{part.lineno}: {part.value}" for part in texts if part.value in codes()]
    assert wrong == []


EXPLANATIONS = [(section, each) for section in SECTIONS for each in section.explanations]


def test_a_section_explains_a_code_once():
    for section in SECTIONS:
        found = [each.code for each in section.explanations]
        assert sorted(set(found)) == sorted(found), section.title


def test_an_explanation_is_of_whole_sentences_in_one_line():
    texts = {text for section, each in EXPLANATIONS for text in (each.means, each.action, each.meanwhile, section.meanwhile) if text}
    assert [text for text in texts if "\n" in text or " | " in text] == [], "each is a cell of a table"
    assert [text for text in texts if not text.endswith((".", ".)"))] == []
    begins = re.compile(r"[A-Z`.*\[]|errno|metadata\.json|(ledger|index)\.db|ledger_id")
    assert [text for text in texts if not begins.match(text)] == []


def test_an_explanation_begins_with_a_sentence_that_can_stand_in_a_list_and_says_what_to_do():
    assert [each for _, each in EXPLANATIONS if not 10 < len(each.summary) < 160 or len(each.action) < 8] == []


def test_the_flags_of_the_index_are_those_of_the_catalogue():
    assert [flag.code for flag in flags.FLAGS] == [each.code for each in FLAGS.explanations]


def test_an_outage_and_a_retry_say_at_which_step():
    steps = {"place", "remove", "mirror", "tell", "confirm"}
    assert all(each.steps and set(each.steps) <= steps for section in (OUTAGES, RETRIES) for each in section.explanations)


# -- where the texts are shown


def test_a_text_for_a_terminal_has_the_words_of_a_link_and_not_its_page_which_an_image_does_not_hold():
    text = "`serve` [verifies](../how-to/verify.md#often), see [the mirror](mirror.md) and [outages](#outages)."
    shown = "`serve` verifies, see the mirror and outages."
    assert plain(text) == shown
    assert plain(text, backticks=False) == shown.replace("`", "")
    assert [each.code for _, each in EXPLANATIONS if "docs/" in plain(each.means + each.meanwhile + each.advice)] == []


def test_what_commands_advise_is_what_the_catalogue_says():
    assert remedies.outage("archive-read-only").startswith("Check the kernel log")
    assert remedies.outage("archive-read-only").endswith("continues by itself.")
    assert remedies.failing("archive-not-writable") != remedies.outage("archive-not-writable")
    assert remedies.attention("index-missing").endswith("Run `storage-ledger replay --index`.")
    assert remedies.not_ready("ledger-full").startswith("Make room")
    assert remedies.attention("of-a-newer-program").startswith("Run `storage-ledger explain of-a-newer-program`")
    assert remedies.quarantined("upload-missing", named_twice=True).startswith("If both messages")


def test_a_quarantined_file_has_its_commands_ready_to_paste_the_likeliest_first():
    verbs = {each.code: [command.split()[2] for command in remedies.commands("S1", each.code)] for each in QUARANTINED_FILES.explanations}
    discarded = {"upload-is-folder", "upload-name-too-long", "archive-folder-taken"}
    assert verbs == {code: ["discard", "retry"] if code in discarded else ["retry", "discard"] for code in verbs}
    assert remedies.commands("a b", "upload-missing")[0] == "storage-ledger quarantine retry 'a b' --by 'YOUR NAME' --reason 'WHY'"


def test_a_page_shows_a_code_without_markup_and_nothing_for_one_that_is_not_known():
    shown = error_codes.meaning("entry-damaged", ATTENTION)
    assert "restore the ledger" in shown.action
    assert not set("`[]*") & set(shown.means + shown.meanwhile + shown.action)
    assert error_codes.meaning_in("failed", "archive-not-writable").means != error_codes.meaning("archive-not-writable", OUTAGES).means
    assert error_codes.meaning_in("discarded", "upload-missing") == error_codes.UNKNOWN
    assert error_codes.meaning("of-a-newer-program", OUTAGES) == error_codes.UNKNOWN


# -- storage-ledger explain


def explain(*arguments: str, exit_code: int = 0) -> str:
    done = CliRunner().invoke(app, ["explain", *arguments])
    assert done.exit_code == exit_code
    return done.output


def test_explain_says_every_meaning_of_a_code_and_what_to_do():
    shown = " ".join(explain("archive-not-writable").split())
    for section, explanation in meanings("archive-not-writable"):
        assert section.title in shown
        assert plain(explanation.means) in shown
        assert plain(explanation.action) in shown


def test_explain_shows_commands_in_one_line_to_be_copied():
    assert "\n  storage-ledger quarantine retry STUDY_ID --by 'YOUR NAME' --reason 'WHY'\n" in explain("upload-missing")


def test_explain_without_a_code_has_a_line_for_each():
    assert [line.split()[0] for line in explain().splitlines()] == codes()


def test_explain_speaks_json():
    told = json.loads(explain("archive-io", "--json"))
    assert told["code"] == "archive-io"
    assert [each["section"] for each in told["meanings"]] == [section.title for section, _ in meanings("archive-io")]
    assert told["meanings"][0]["reference"] == "docs/reference/error-codes.md#retries"
    assert [each["code"] for each in json.loads(explain("--json"))] == codes()


def test_explain_names_codes_that_are_like_one_that_does_not_exist():
    assert "archive-full" in explain("archive-ful", exit_code=2)
    shown = explain("\x1b[31m", exit_code=2)
    assert "explain` lists" in shown
    assert "\x1b[31m" not in shown

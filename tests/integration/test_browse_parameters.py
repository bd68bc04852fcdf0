"""Parameters of Datasette's tables: none reaches another table, and nonsense is the asker's mistake, not an error of the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import datasette
import pytest

from storage_ledger.web.datasette.parameters import OF_ONE_TABLE, OF_WHOLE_DATABASES
from tests.integration.test_browse import Browse, make_ledger
from tests.integration.test_browse_gate import machine

REFUSED = {
    "_fts_table", "_fts_pk", "_searchmode",  # search another table, or with FTS5's own syntax
    "_through",  # joins other tables
    "_trace",  # shows SQL
    "_context", "_success",  # of features that are off
}  # fmt: skip


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browse]:
    folder = tmp_path_factory.mktemp("parameters")
    tokens = " ".join((machine("board", "index/arrivals:"), machine("usual", ""), machine("sql", "index,ledger,sql:")))
    browse = Browse(make_ledger(folder), folder / "log", BROWSE_TOKENS=tokens).ready()
    yield browse
    browse.stop()


def status(browse: Browse, who: str, path: str) -> int:
    return browse.ask(path, Authorization=f"Bearer {who}").status


def test_a_token_for_one_table_cannot_search_another(browse: Browse):
    search = "_search=patient_name+:+do*"
    for who in ("board", "usual", "sql"):
        for more in (
            "_fts_table=studies_fts&_fts_pk=files&_searchmode=raw",
            "_fts_table=studies_fts&_fts_pk=files",
            "_fts_pk=files",
            "_searchmode=raw",
        ):
            for form in ("", ".json", ".csv"):
                assert status(browse, who, f"/index/arrivals{form}?{search}&{more}") == 400, (who, more, form)
        assert status(browse, who, "/index/arrivals.json?_size=5&_sort_desc=files&modality=CT&_facet=modality&_col=files") == 200


@pytest.mark.parametrize("name", ["_where", "_label", "_labels", "_extras", "_through", "_search_patient_name", "_nothing", "_show_sql"])
def test_a_token_for_one_table_has_only_parameters_that_stay_in_it(browse: Browse, name: str):
    assert status(browse, "board", f"/index/arrivals.json?{name}=1") in {400, 403}


def test_every_parameter_that_datasette_reads_is_allowed_or_refused_on_purpose():
    source = Path(datasette.__file__).parent
    texts = [path.read_text() for path in [*source.glob("*.py"), *source.glob("views/*.py")]]
    found = {
        name
        for text in texts
        for name in re.findall(r"""(?:args(?:\.get|\.getlist)?[\[(]|params\.get\(|\bin )\s*["'](_[a-z_]+)["']""", text)
    }
    found |= {name for text in texts for name in re.findall(r'"(_[a-z_]+)" in request\.args', text)}
    assert len(found) > 20
    assert found - OF_WHOLE_DATABASES <= REFUSED
    assert not OF_WHOLE_DATABASES & {"_fts_table", "_fts_pk", "_searchmode", "_through"}
    assert OF_ONE_TABLE < OF_WHOLE_DATABASES

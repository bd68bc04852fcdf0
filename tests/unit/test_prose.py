"""What the checks of spelling and plain words take for text, and which phrases they find."""

from __future__ import annotations

import plain_words
import prose
import pytest


def test_in_markdown_code_and_addresses_are_no_text(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading\n\nText with `code`\nand a [link](addres.md).\n\n```sh\nnot this\n```\n\n"
        "| one | `two` |\n|---|---|\n| cell | x |\n\n<!-- nor this -->\n"
    )
    texts = [(piece.line, piece.text.strip()) for piece in prose.in_markdown(page) if piece.text.strip()]
    assert texts == [
        (1, "A heading"),
        (3, "Text with"),
        (4, "and a"),
        (4, "link"),
        (4, "."),
        (10, "one"),
        (12, "cell"),
        (12, "x"),
    ]


def test_in_python_docstrings_comments_and_messages_are_text_but_sql_and_single_words_are_not(tmp_path):
    module = tmp_path / "module.py"
    module.write_text(
        '"""A module,\n\nwith `code`."""\n\nQUERY = "SELECT colour FROM paint"\nNAME = "colour"\n'
        'raise ValueError(f"no {NAME} here")  # why not  # noqa: TRY003\nPATTERN = r"a \\d b"\n'
    )
    texts = [(piece.line, piece.text.strip()) for piece in prose.in_python(module) if piece.text.strip()]
    assert sorted(texts) == [(1, "A module,"), (3, "with 0."), (7, "# why not"), (7, "no 0 here")]


def test_in_a_template_text_and_what_is_read_aloud_are_text_but_tags_and_code_are_not(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '{% if x %}\n<p class="no such" title="Shown on hover">All {{ count }} <b>files</b></p>\n'
        "<code>no such</code><script>no such</script>\n"
    )
    texts = [(piece.line, " ".join(piece.text.split())) for piece in prose.in_template(page)]
    assert [(line, text) for line, text in texts if text.strip("0")] == [(2, "Shown on hover"), (2, "All 0 files")]


def test_names_of_code_abbreviations_and_numbers_are_no_words():
    text = "The DICOM file's study_id, x.dcm, --by, 8KiB, camelCase, a/b, sha256: Redis re-sent UID it's"
    assert list(prose.words(text)) == ["The", "file", "Redis", "re-sent", "it"]


@pytest.mark.parametrize(
    "text",
    [
        "The index is made anew.",
        "so many messages an hour",
        "what lies there",
        "The file lies in uploads",
        "the status is told again",
        "for who looks",
        "which is mended",
        "It goes on",
        "it waits for a person",
        "two files, of which one is damaged",
    ],
)
def test_a_phrase_with_a_plainer_one_is_found(text):
    assert list(plain_words.found(text))


@pytest.mark.parametrize(
    "text",
    [
        "the amendment",
        "a file in uploads",
        "It can be told apart from others, so that one transaction does both.",
        "make-up-for-lost-messages.md",
        "so many that it stops",
        "an ongoing outage",
        "the record of who decided",
        "The layout lays no claim to this.",
    ],
)
def test_a_plain_phrase_is_not_found(text):
    assert list(plain_words.found(text)) == []

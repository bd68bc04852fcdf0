"""Rejected messages, by the `reason` of the entry `rejected`."""

# ruff: noqa: RUF001 - a sentence is one line, with its own dashes

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

REJECTED_MESSAGES = Section(
    "Rejected messages",
    intro="""\
The `reason` in a [`rejected`](entry-kinds.md#rejected) entry: a message is not a valid `described` event.
If its study_id is valid and not yet described, the status `failed` is sent, with the code as `error`.
The sender must publish a corrected message.""",
    meanwhile="Nothing is archived, and the message is not retried.",
    explanations=(
        Explanation(
            "too-large",
            means="The message is larger than 1 MiB.",
            action="Leave pixels and private elements out.",
        ),
        Explanation(
            "not-utf8",
            means="The message is not UTF-8.",
            action="Encode it as UTF-8.",
        ),
        Explanation(
            "not-json",
            means="The message is not JSON; the detail gives line and column.",
            action="Correct the sender, or find out what else publishes to the channel.",
        ),
        Explanation(
            "not-an-object",
            means="The message is not a JSON object, or a stream entry has fields other than `data`.",
            action="Publish one JSON object per message, in a stream [as the field `data`](../how-to/publish-through-a-stream.md#publish).",
        ),
        Explanation(
            "nested-too-deep",
            means="The message is nested more than 64 levels deep.",
            action="Publish flatter metadata.",
        ),
        Explanation(
            "missing-field",
            means="`study_id` or `file_path` is missing; the detail names it.",
            action="Add the field.",
        ),
        Explanation(
            "wrong-field",
            means="A field has the wrong type; the detail names it.",
            action="Correct the type.",
        ),
        Explanation(
            "unsafe-study-id",
            means="The study_id cannot be a folder name. It needs 1 to 128 of `A–Za–z0–9._-`, a letter or digit first, no `..`.",
            meanwhile="No status can be sent for it.",
            action="Use another study_id.",
        ),
        Explanation(
            "unsafe-path",
            means="`file_path` is not a path inside uploads; the detail says why.",
            action="Correct the path, or add the sender's mount point of uploads to NEIGHBOUR_UPLOADS_PATHS.",
        ),
        Explanation(
            "not-processable",
            means="A bug; the log line `intake.not-processable` says where.",
            meanwhile="Other messages are not affected; the file stays in uploads.",
            action="Report it with that line, then publish a corrected message.",
        ),
    ),
)

"""A message that is no `described` event, by the `reason` of its entry `rejected`."""

# ruff: noqa: E501, RUF001 - a sentence is one line, with its own dashes

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

REJECTED_MESSAGES = Section(
    "Rejected messages",
    where="a rejected message",
    intro="""\
A message that is not a valid `described` event becomes an entry `rejected` with one of these codes as its `reason`.
The entry keeps the first 4 KiB of the message (`raw`).
If the message has a valid study_id for which the ledger has no `described`, the Status Service is sent `failed`, with the code as `error`.
The sender always has to publish a correct message.""",
    meanwhile="Nothing is archived, and the rejected message is not retried.",
    explanations=(
        Explanation(
            "too-large",
            means="The message is larger than 1 MiB.",
            action="Publish less: metadata belongs in the message, pixels and private elements do not.",
        ),
        Explanation(
            "not-utf8",
            means="The bytes are not UTF-8.",
            action="Encode the message as UTF-8.",
        ),
        Explanation(
            "not-json",
            means="The text is not JSON.",
            action="Look at the line and column in the detail. Often another program publishes to the same channel.",
        ),
        Explanation(
            "not-an-object",
            means="The message is JSON, but a list, a string, a number or null. Also an entry of a stream that has anything but one field `data`: `raw` then lists its fields and values.",
            action="Publish one object per message; in a stream, [as `data`](../how-to/publish-through-a-stream.md#publish).",
        ),
        Explanation(
            "nested-too-deep",
            means="Objects or lists are nested more than 64 levels deep.",
            action="Publish flat metadata.",
        ),
        Explanation(
            "missing-field",
            means="`study_id` or `file_path` is missing; the detail names it.",
            action="Add the field.",
        ),
        Explanation(
            "wrong-field",
            means="A field has the wrong type; the detail names it. `study_id` and `file_path` must be strings; `metadata`, its five groups and `validation_details` must be objects or null.",
            action="Correct the type.",
        ),
        Explanation(
            "unsafe-study-id",
            means="The study_id cannot be the name of a folder. It must be 1 to 128 characters of `A–Z a–z 0–9 . _ -`, begin with a letter or digit, and contain no `..`.",
            meanwhile="No status can be sent for this study_id.",
            action="Use another study_id.",
        ),
        Explanation(
            "unsafe-path",
            means="`file_path` is no path below uploads. It is empty, is UPLOADS_PATH itself, contains `..` or a NUL, cannot be written as UTF-8, or leads outside uploads; the detail says which.",
            action="If a neighbour mounts uploads elsewhere, add that place to NEIGHBOUR_UPLOADS_PATHS. Then publish the message again.",
        ),
        Explanation(
            "not-processable",
            means="Reading or recording the message failed in a way that the program does not foresee. The log line `intake.not-processable` says where.",
            meanwhile="Other messages are not affected. The file is still in uploads.",
            action="Report it with that log line. Then correct the message and publish it again.",
        ),
    ),
)

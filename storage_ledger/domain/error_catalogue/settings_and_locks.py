"""What any command may end with: bad settings, an error of the operating system, a lock that another process holds, a bug."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

SETTINGS_AND_LOCKS = Section(
    "Settings and the lock",
    where="any command",
    intro="What any command may end with, besides the codes of its own section.",
    explanations=(
        Explanation(
            "bad-settings",
            means="One or more [settings](settings.md) are wrong, or the program cannot listen on a port or address; all of them are named.",
            meanwhile="The command ends with 2.",
            action="Correct them.",
        ),
        Explanation(
            "os-error",
            means="The operating system refused something that has no code of its own; the text has its reason and the file.",
            meanwhile="The command ends with 2.",
            action="Do what the reason says.",
        ),
        Explanation(
            "internal-error",
            means="A bug in the program; the text names the place.",
            meanwhile="The command ends with 2.",
            action="Report that line.",
        ),
        Explanation(
            "locked",
            means="Another process holds `serve.lock`; the text names it. (A process that rebuilds the index holds `index.lock`: `replay` says so and waits, `serve` retries.)",
            meanwhile="The command ends with 11.",
            action="Stop that process first. Do not delete the lock file: the lock is the kernel's, and ends with its process.",
        ),
    ),
)

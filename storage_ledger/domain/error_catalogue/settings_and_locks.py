"""Failures of any command: wrong settings, an operating system error, a lock, a bug."""

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

SETTINGS_AND_LOCKS = Section(
    "Settings and the lock",
    intro="Any command may end with these.",
    explanations=(
        Explanation(
            "bad-settings",
            means="[Settings](settings.md) are wrong, or a port or address cannot be used.",
            meanwhile="Exit code 2.",
            action="Correct all settings that the text names.",
        ),
        Explanation(
            "os-error",
            means="The operating system refused something; the text names the file and the reason.",
            meanwhile="Exit code 2.",
            action="Fix what the text names.",
        ),
        Explanation(
            "internal-error",
            means="A bug; the text says where.",
            meanwhile="Exit code 2.",
            action="Report that line.",
        ),
        Explanation(
            "locked",
            means="Another process holds a lock such as `serve.lock`; the text names it.",
            meanwhile="Exit code 11. For `index.lock` (index rebuild), `replay` waits and the service retries.",
            action="Wait for that process, or stop it; do not delete the lock file.",
        ),
    ),
)

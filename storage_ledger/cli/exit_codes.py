"""What each exit code means: `storage-ledger --help` and docs/reference/commands.md print this."""

from __future__ import annotations

EXIT_CODES = {
    0: "Success.",
    1: "Done, but something needs attention: the command lists it.",
    2: "Failed. Standard error has the reason: `storage-ledger: CODE: text`.",
    11: "Locked: another process holds the lock. The message names it.",
    130: "Interrupted with Ctrl-C.",
}
EPILOGUE = "\n".join(["Exit codes:", *(f"{code:>5}  {meaning}" for code, meaning in EXIT_CODES.items())])

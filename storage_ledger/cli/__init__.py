"""The command line: one file a command."""

from storage_ledger.cli.main import main

__all__ = ["main"]

"""The command line: one module for each command."""

from storage_ledger.cli.main import main

__all__ = ["main"]

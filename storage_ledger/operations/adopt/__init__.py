"""Adopt an archive that another service made: record its files in the ledger, in place."""

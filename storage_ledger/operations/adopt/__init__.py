"""Adopt an archive created by another service: record its files in the ledger, in place."""

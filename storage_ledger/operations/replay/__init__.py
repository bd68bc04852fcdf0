"""Rebuilds from the ledger: archived files, metadata.json, statuses, the mirror."""

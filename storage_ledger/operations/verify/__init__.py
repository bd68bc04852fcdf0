"""Check that everything still matches the ledger, without repairing anything."""

"""Is everything still as the ledger says? Looks at all of it, and repairs nothing."""

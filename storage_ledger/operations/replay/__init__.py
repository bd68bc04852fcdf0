"""Re-create from the ledger what was lost: the mirror, archived files (from copies), metadata.json, statuses."""

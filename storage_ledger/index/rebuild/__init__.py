"""The rebuild of index.db: partitions of the ledger, each folded by a worker process, and brought together."""

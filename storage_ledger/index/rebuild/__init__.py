"""The rebuild of index.db: partitions of the ledger are folded by processes, merged into shadow tables, and these replace the old ones.

`rebuild` is the whole of it; `partitions` and `processes` share the ledger out, `worker` folds one partition, `merge` brings
them together.
"""

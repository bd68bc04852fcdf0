"""Rebuilds index.db: processes fold partitions of the ledger, which are merged into shadow tables that replace the old tables.

`rebuild` runs it all; `partitions` and `processes` divide the work, `worker` folds one partition, `merge` combines them.
"""

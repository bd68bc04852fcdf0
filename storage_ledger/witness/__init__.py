"""A witness: cosigns the checkpoints of others' logs, and never two that contradict each other (c2sp.org/tlog-witness v1.0.0)."""

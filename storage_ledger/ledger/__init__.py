"""The append-only log, and its work queue."""

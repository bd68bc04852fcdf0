"""The rules for entries, studies, names and the work queue: pure functions without I/O, clock or randomness."""

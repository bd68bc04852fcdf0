"""What is true of entries, studies, names and the work queue: pure functions, no I/O, no clock, no randomness."""

"""What is true of entries, names and plans: pure functions, no I/O, no clock, no randomness."""

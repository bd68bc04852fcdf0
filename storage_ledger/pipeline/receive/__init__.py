"""Receives messages: a source reads them from Redis, the intake validates them and appends entries."""

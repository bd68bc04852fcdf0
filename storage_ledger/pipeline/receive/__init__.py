"""Messages come in: a source reads them from Redis, the intake judges them and appends entries."""

"""The SQLite read model: a fold of the ledger that may be thrown away and made again."""

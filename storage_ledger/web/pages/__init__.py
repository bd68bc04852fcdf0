"""Our pages: an address → queries on index and ledger → a template and its variables."""

"""Our pages: an address → a question to index and ledger → a template and its variables."""

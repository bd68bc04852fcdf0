"""Where files come from (uploads) and where they are kept (the archive)."""

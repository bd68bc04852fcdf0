"""Entries → effects on the archive, and the entries about them: placer (files, metadata.json), outcomes, recorder (entries)."""

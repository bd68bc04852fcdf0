"""The tree's hashes for whoever checks the log: `/tlog/` (c2sp.org/tlog-tiles). No entries: their headers hold study_ids."""

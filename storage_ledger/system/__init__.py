"""The machine under the service: SQLite, files, locks, logs, metrics, processors. Nothing here knows what an archive is."""

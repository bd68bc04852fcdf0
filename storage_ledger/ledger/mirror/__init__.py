"""The mirror: the ledger's copy on the archive volume, in a plain format that can be read without this program."""

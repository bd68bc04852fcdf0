"""Takes an archive that was not made by this program into the ledger, in place."""

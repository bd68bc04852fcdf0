"""Commands for operators: verify, replay, adopt, report, backup, restore, quarantine, repair."""

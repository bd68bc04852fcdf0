"""What a person starts: verify, replay, adopt, report, backup, restore, quarantine, repair."""

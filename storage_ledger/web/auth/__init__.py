"""Who may enter, what a machine may see, and who looked at what."""

"""Who may log in, what a token may see, and the log of who saw which study."""

"""Logins, API tokens, and the log of who viewed which study."""

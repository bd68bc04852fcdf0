"""The service process: its supervised threads, how it stops, and the health endpoint."""

"""The process: its threads, each supervised, one way to stop, and the health endpoint."""

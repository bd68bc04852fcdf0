"""Proof that the ledger was not rewritten: its Merkle tree, the checkpoints that sign it, and their keys.

See docs/explanation/what-a-proof-shows.md.
"""

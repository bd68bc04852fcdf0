"""Proofs that entries are in a signed checkpoint, for people who have neither this program nor this ledger."""

"""Delivers statuses to the Status Service."""

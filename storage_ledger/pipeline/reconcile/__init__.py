"""Finds files in uploads that no message or work item accounts for."""

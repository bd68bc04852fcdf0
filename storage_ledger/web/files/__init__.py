"""Archived files for the browser: downloads, ZIP files, headers and images."""

"""Bundled model folders (data)."""

"""Named training recipes (data)."""

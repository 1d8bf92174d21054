"""How results are written: one writer per format."""

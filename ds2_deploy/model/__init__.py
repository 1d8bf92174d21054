"""The DeepSpeech2 network: its configuration (no torch) and its layers (torch)."""

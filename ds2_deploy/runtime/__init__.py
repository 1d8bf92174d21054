"""Where inference runs: one protocol, several backends."""

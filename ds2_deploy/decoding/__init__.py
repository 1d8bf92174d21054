"""From log-probabilities to text: one protocol, several decoders."""

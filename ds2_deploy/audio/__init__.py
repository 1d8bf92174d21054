"""Audio in: reading and resampling recordings, and the configuration of the features computed from them."""

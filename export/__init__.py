"""From checkpoints to model folders and engines. Building an engine needs no torch."""

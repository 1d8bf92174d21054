"""From manifests to checkpoints (needs the extra `train`)."""

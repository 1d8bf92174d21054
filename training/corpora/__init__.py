"""From published corpora, cut sets and folders to manifests. No torch."""

"""Labels, and the normalisation of transcripts per language."""

"""Speech and noise made by programs: what a small corpus of people lacks in variety."""

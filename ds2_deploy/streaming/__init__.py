"""Live recognition: streams, endpointing, and the dispatcher that steps many streams in one batch."""

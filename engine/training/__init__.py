"""Learning concepts: base models, the trainer and the methods."""

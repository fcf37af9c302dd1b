"""Plain torch used by both training and inference."""

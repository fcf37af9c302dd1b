"""What the networks that take noise away have of their own: where their attention lets the seam in."""

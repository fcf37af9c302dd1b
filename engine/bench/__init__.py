"""What the project proves with: claims, sweeps, the Miniature's card, speed, picture sheets."""

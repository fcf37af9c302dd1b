"""What noise does to latents, and back: the contract of diffusion processes, and those that keep it."""

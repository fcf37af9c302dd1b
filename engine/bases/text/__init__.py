"""How a base reads a prompt: tokens, chunks and learned vectors in them."""

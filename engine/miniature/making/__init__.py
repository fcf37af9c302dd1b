"""How the Miniature's weights are made, one file per network.

The way of the data: `dataset` renders the world once; `vocabulary`, then autoencoder, text and image towers,
U-Net, judges and identity adapter are trained on it, all by the loop in `fitting`.
"""

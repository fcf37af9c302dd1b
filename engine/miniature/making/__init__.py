"""How the Miniature's weights are made, one file per network."""

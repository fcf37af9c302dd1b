"""The Miniature: a tiny procedural portrait world, the networks trained on it and their judges.

The way of the data: `world` draws people of whom everything is known; `making` (by `make`) trains networks on
them, whose weights are shipped; `model` loads them as a base model, `judges` as those who look at pictures.
"""

"""The Miniature: a tiny procedural portrait world, the networks trained on it and their judges."""

"""The sub-commands of `likeness`, one module per stage; `engine.cli` puts them together."""

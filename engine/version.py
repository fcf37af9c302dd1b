"""The version, readable without being installed; a test keeps it equal to pyproject.toml."""

VERSION = "0.1.0"

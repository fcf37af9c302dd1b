"""The sockets of our own: a concept (what to learn) and a likeness (what was learned)."""

from comfy_api.latest import io

Concept = io.Custom("LIKENESS_CONCEPT")  # engine.config.ConceptSpec: a folder of pictures and what it shows
Likeness = io.Custom("LIKENESS")  # engine.artifact.Artifact
Identity = io.Custom("LIKENESS_IDENTITY")  # engine.inference.id_adapter.Identity: a person seen in pictures

CATEGORY = "Likeness"

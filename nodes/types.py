"""What all nodes share: the sockets of our own, the menu's category, the names of face packs."""

from comfy_api.latest import io

Concept = io.Custom("LIKENESS_CONCEPT")  # engine.config.ConceptSpec: a folder of pictures and what it shows
Likeness = io.Custom("LIKENESS")  # engine.artifact.Artifact
Identity = io.Custom("LIKENESS_IDENTITY")  # engine.identity.conditioning.Identity: a person seen in pictures

CATEGORY = "Likeness"
FACE_PACKS = ("auraface", "antelopev2", "buffalo_l")  # insightface's, as engine.data.faces knows them
MEDIAPIPE = "mediapipe"  # newer ComfyUI's own face model, which recognises nobody
NO_MODEL = "my mask"  # instead of a pack: somebody marked the face

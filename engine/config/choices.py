"""Words that people choose from in lists: of nodes, of the command line, of files. They never change."""

AUTOMATIC = "automatic"  # what fits what was given
NOBODY = "nobody"  # looks at the faces, or judges them
MEDIAPIPE = "mediapipe"  # newer ComfyUI's own face model where a pack of insightface would be named
FOCUS_MODES = ("hard", "soft")
FOCUS_SCOPES = ("apart", "word")

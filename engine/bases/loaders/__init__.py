"""Base models from a single file, a diffusers folder, ComfyUI's graph, or random weights."""

"""All that touches ComfyUI: its folders, its MODEL, CLIP and VAE, its progress bar and its cancel button.

What ComfyUI may change is reached through few, old functions, and asked for by feature, never by version.
"""

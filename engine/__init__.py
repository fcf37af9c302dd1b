"""Everything that learns, draws and judges; knows nothing of ComfyUI."""

"""Everything that learns, draws and judges; knows nothing of ComfyUI, but for `comfy_bridge`.

The way of the data: a `Job` (`config`) and folders of pictures (`data`) go into `training`, which leaves an
`Artifact` (`artifact`); `inference` draws with it, `evaluation` judges the drawing. `networks` is the torch
that several of them need, `miniature` a small world to try all of it on. People come in through `cli` (with
`commands`, `job_file`, `console`) or through `comfy_bridge`, which the nodes call.
"""

"""Learning concepts: base models, the trainer and the methods.

The way of the data: `launch.train` takes a job, loads its base (`base_model`, out of a `single_file` or of
the graph's weights in `graph_base`) and gives it with the pictures to a method of `methods`, which says what
it trains and returns losses (`losses`, and each method's own); `latents` are encoded once. `memory` makes
the run fit, `faster` lays the U-Net out and compiles it where the job asks. The `trainer` steps through the
method's phases (`optimiser`), keeps checkpoints (`checkpoint`) and tells whoever watches (`observer`); in
the end the method's artifact is written.
"""

"""What is learned on: the base model, its loaders, text, samplers, and what is done inside its attention."""

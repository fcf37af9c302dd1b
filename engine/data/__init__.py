"""Pictures, masks and concepts on their way from folders to training."""

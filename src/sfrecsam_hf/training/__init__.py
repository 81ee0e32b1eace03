"""Two-stage training with Accelerate."""

"""Training: one trainer for every stage, resumable and distributed."""

"""Evaluation: every figure with its interval and the key of what it was measured on."""

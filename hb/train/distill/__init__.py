"""Distillation: fewer function evaluations for the same pictures. One file a stage, every formula in losses.py."""

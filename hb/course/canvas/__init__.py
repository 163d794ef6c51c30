"""The live canvas of notebook 12: words, and gestures on the picture, change it at once."""

from hb.course.canvas.canvas import Canvas

__all__ = ["Canvas"]

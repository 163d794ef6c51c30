"""The judge of pictures: reads a picture back into a scene and compares it with a request."""

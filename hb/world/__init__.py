"""The tiny world: scenes, the pictures of them, the language about them, and the judge who knows the truth."""

"""The tiny world: scenes, the pictures of them, the language about them, and the judge that compares with the truth."""

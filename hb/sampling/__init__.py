"""Sampling, slow and right: Euler for pictures, one token at a time for text. Every fast path must equal these."""

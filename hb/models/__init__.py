"""The unified model: BAGEL's Mixture-of-Transformers, vision tower and autoencoder, from nano to the released 7B."""

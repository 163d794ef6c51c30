"""Data: pools of encoded examples, batches by step number, dialogues."""

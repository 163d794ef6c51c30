"""Many guesses checked in one pass: a small draft model proposes, the target decides, and the words stay the same."""

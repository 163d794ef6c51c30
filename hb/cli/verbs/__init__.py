"""What may be typed after `hb`: the verbs with their options and help. What they do is in `hb.cli`."""

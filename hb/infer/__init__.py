"""Inference: from words and pictures to records of pictures and answers, with metered cost."""

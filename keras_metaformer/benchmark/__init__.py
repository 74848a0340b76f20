"""Which form of a model is the fastest: forms in worker processes that take turns."""

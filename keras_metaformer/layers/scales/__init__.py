"""Learned scales of the two branches of a residual step."""

"""Errors of the weights package."""


class CheckpointError(ValueError):
    """A checkpoint file is damaged, hostile, or of a kind that is not read."""

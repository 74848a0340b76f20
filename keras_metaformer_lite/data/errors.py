"""What may be wrong with data."""


class DataError(ValueError):
    """A data set that cannot be read, or that nothing can be learnt from."""


class WorkerError(RuntimeError):
    """A process that prepares images failed, by no fault of an image."""

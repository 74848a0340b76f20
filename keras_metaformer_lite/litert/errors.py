"""Errors of the export and of exported files."""


class ExportError(ValueError):
    """A model that cannot be exported, or whose export is not what was asked for."""


class ModelFileError(ValueError):
    """A file that is no model that can be run."""

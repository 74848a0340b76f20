"""Readers of checkpoint files: untrusted bytes to NumPy arrays, nothing run."""

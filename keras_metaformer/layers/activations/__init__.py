"""Activations as layers, one a file; `table.py` names them."""

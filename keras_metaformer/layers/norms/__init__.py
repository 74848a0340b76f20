"""Norms that Keras has not, one a file; `table.py` names all."""

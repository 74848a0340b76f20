"""Layers that mix tokens or channels, one a file; `table.py` names them."""

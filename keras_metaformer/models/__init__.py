"""Configs, graph builders, variants and their registry."""

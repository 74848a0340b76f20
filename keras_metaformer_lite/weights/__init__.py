"""The published checkpoints: what there is, and fetching it."""

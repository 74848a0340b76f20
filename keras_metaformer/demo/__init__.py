"""The demo: a small model learns to read handwritten digits and is exported."""

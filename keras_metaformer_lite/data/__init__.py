"""Data sets, augmentation and batches for training, on NumPy and Pillow alone."""

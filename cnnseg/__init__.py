"""Unrolled LRP: a convolutional classifier that is a segmentation network, its baselines, and seeds made of it."""

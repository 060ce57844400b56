"""Data, losses, metrics, inference and files: one noun a module."""

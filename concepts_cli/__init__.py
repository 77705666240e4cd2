"""Discover the visual concepts in unlabelled images with a frozen text-to-image diffusion model."""

__version__ = "0.1.0"

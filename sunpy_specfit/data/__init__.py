"""Synthetic scenes, line data and access to sample data."""

from .synthetic import gaussian_cube, spectral_wcs

__all__ = ["gaussian_cube", "spectral_wcs"]

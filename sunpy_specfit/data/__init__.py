"""Synthetic scenes, line data, and files of instruments."""

from .atomic_line import AtomicLine
from .dem_scene import DEMScene, dem_scene
from .hinode_sp import hinode_sp
from .lines import line, list_lines
from .milne_eddington import milne_eddington_cube
from .synthetic import gaussian_cube, spectral_wcs
from .weak_field import stokes_wcs, weak_field_cube
from .zeeman import Level, ZeemanComponents, ZeemanPattern

__all__ = [
    "AtomicLine",
    "DEMScene",
    "Level",
    "ZeemanComponents",
    "ZeemanPattern",
    "dem_scene",
    "gaussian_cube",
    "hinode_sp",
    "line",
    "list_lines",
    "milne_eddington_cube",
    "spectral_wcs",
    "stokes_wcs",
    "weak_field_cube",
]

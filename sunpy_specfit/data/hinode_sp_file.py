"""One level-1 file of Hinode/SP: the four Stokes parameters along one position of the slit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.time import Time

__all__ = ["find_files", "read_slit"]

# From which SPBSHFT on I, Q, U and V were divided by two.
_SHIFTED_FROM = (1, 3, 3, 2)
_NEEDED = ("DATE_OBS", "SLITINDX", "SPBSHFT", "XCEN", "YCEN", "CDELT2")


def find_files(files: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that were given, or those of a folder.

    Raises
    ------
    FileNotFoundError
        If there are none, or one of them is not there.
    """
    given = [files] if isinstance(files, (str, Path)) else list(files)
    found = []
    for one in map(Path, given):
        found += sorted(one.glob("SP[34]D*.fits*")) if one.is_dir() else [one]
    missing = [str(one) for one in found if not one.is_file()]
    if missing or not found:
        where = ", ".join(missing or map(str, given)) or "an empty list"
        raise FileNotFoundError(f"no Hinode/SP level-1 files (SP3D*.fits or SP4D*.fits) in {where}")
    return found


def read_slit(path: Path) -> tuple[dict, np.ndarray]:
    """The header of a file, with its name and its time, and Stokes parameters ``(along the slit, 4, n)`` in DN.

    Raises
    ------
    ValueError
        If it is no such file, or of another level.
    """
    with fits.open(path) as units:
        header, stored = units[0].header, units[0].data
        if not str(header.get("INSTRUME", "")).startswith("SOT/SP"):
            raise ValueError(f"{path.name}: INSTRUME is {header.get('INSTRUME')!r}, that of Hinode/SP is 'SOT/SP'")
        calibrated = any("sp_prep" in str(line) for line in header.get("HISTORY", []))
        if stored is None or stored.ndim != 3 or stored.shape[0] != 4 or not calibrated:
            shape = None if stored is None else stored.shape
            raise ValueError(
                f"{path.name} has the shape {shape} and is {'' if calibrated else 'not '}calibrated by sp_prep: "
                "a level-1 file has (4 Stokes parameters, along the slit, wavelength); give those of level 1"
            )
        missing = [name for name in _NEEDED if name not in header]
        if missing:
            raise ValueError(f"{path.name}: its header lacks {', '.join(missing)}")
        shift = header["SPBSHFT"]
        if shift not in (0, 1, 2, 3):
            raise ValueError(f"{path.name}: SPBSHFT is a number from 0 to 3, found {shift!r}")
        if stored.dtype.kind not in "iu" or stored.dtype.itemsize != 2:
            raise ValueError(
                f"{path.name} holds {stored.dtype}: sp_prep writes 16-bit integers. What somebody has converted may "
                "have been unwrapped and multiplied already; give the original files"
            )
        stokes = np.empty((stored.shape[1], 4, stored.shape[2]), np.float32)
        for number, since in enumerate(_SHIFTED_FROM):
            # The intensity is never negative: what is has wrapped around. That came after the division by two.
            plane = stored[number] if number else stored[number].astype(np.uint16)
            stokes[:, number] = plane.astype(np.float32) * (2 if shift >= since else 1)
        kept = {key: value for key, value in header.items() if key not in ("HISTORY", "COMMENT", "")}
    return {**kept, "FILENAME": path.name, "DATE_OBS": Time(kept["DATE_OBS"], scale="utc")}, stokes

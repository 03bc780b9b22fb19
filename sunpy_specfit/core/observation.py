"""PROVISIONAL minimal version, to be replaced by the real one."""
import astropy.units as u
import numpy as np
import torch
from astropy.nddata import StdDevUncertainty
from dataclasses import dataclass
from .grid import Grid
from .status import Status
from ndcube import NDCube

def as_cubes(data):
    return data

@dataclass(frozen=True)
class Block:
    data: torch.Tensor
    weight: torch.Tensor
    x: torch.Tensor
    flags: torch.Tensor

class Observation:
    @classmethod
    def from_cube(cls, cube, *, data_axis="spectral", stokes="I", uncertainty=None, mask=None, spectral_axis=None, window=None, spectral_unit=None, rest_wavelengths=()):
        self = cls()
        self.cube = cube
        self.data_unit = cube.unit or u.dimensionless_unscaled
        phys = cube.array_axis_physical_types
        ax = [i for i, t in enumerate(phys) if t and any((p or "").startswith(("em.", "spect.")) for p in t)]
        if not ax:
            raise ValueError("no spectral axis")
        self.axis = ax[-1] if len(ax) == 1 else max(ax)
        if spectral_axis is None:
            name = [p for p in cube.wcs.world_axis_physical_types if p.startswith(("em.", "spect."))][0]
            spectral_axis = cube.axis_world_coords_values(name)[0]
        self.spectral_unit = spectral_unit or u.AA
        x = spectral_axis.to_value(self.spectral_unit)
        data = np.moveaxis(np.asarray(cube.data), self.axis, -1)
        self.shape = data.shape[:-1] or (1,)
        self.grid = Grid(self.shape, ("space",) * len(self.shape))
        self._y = data.reshape(-1, data.shape[-1])
        self.x = x if x.ndim == 1 else np.moveaxis(x, self.axis, -1).reshape(-1, data.shape[-1]).T
        s = uncertainty if uncertainty is not None else cube.uncertainty
        s = s.array if hasattr(s, "array") else s.value
        s = np.broadcast_to(s, cube.data.shape)
        self._s = np.moveaxis(s, self.axis, -1).reshape(-1, data.shape[-1])
        m = np.zeros(cube.data.shape, bool) if cube.mask is None else np.broadcast_to(cube.mask, cube.data.shape)
        self._m = np.moveaxis(m, self.axis, -1).reshape(-1, data.shape[-1])
        self.sample_shape = (data.shape[-1],)
        self.noise = None
        self.noise_origin = "cube"
        self.stokes = stokes
        return self

    def block(self, index, *, dtype=torch.float64, device="cpu", origin=0.0, scale=1.0, data_scale=1.0):
        d = torch.as_tensor(np.array(self._y[index])).to(dtype).T.contiguous() / data_scale
        s = torch.as_tensor(np.array(self._s[index])).to(dtype).T.contiguous() / data_scale
        m = torch.as_tensor(np.array(self._m[index])).T
        good = torch.isfinite(d) & torch.isfinite(s) & (s > 0) & ~m
        w = torch.where(good, s**-2, 0.0)
        d = torch.where(good, d, 0.0)
        x = self.x[:, None] if self.x.ndim == 1 else self.x[:, index]
        flags = torch.where(((~good) & ~m).any(0), int(Status.BAD_DATA), 0).int()
        return Block(d, w, torch.as_tensor((x - origin) / scale, dtype=dtype, device=device), flags)

    def map_cube(self, values, unit, *, sigma=None, mask=None, leading=None):
        sub = self.cube[tuple(0 if i == self.axis else slice(None) for i in range(self.cube.data.ndim))]
        f = lambda v: None if v is None else np.asarray(v).reshape(self.shape)
        return NDCube(f(values), wcs=sub.wcs, unit=unit, uncertainty=None if sigma is None else StdDevUncertainty(f(sigma)), mask=f(mask))

    def light_cube(self, values, unit):
        v = np.moveaxis(np.asarray(values).T.reshape(*self.shape, -1), -1, self.axis)
        return NDCube(v, wcs=self.cube.wcs, unit=unit)

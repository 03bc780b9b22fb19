"""The derivative of all whitened residuals, where operators mix pixels: products with it and with its transpose."""

from __future__ import annotations

import torch

from .problem import Problem

__all__ = ["MixedJacobian"]


class MixedJacobian:
    """d residual / d free at some free numbers, matrix-free.

    The model's own derivatives are taken once, pixel by pixel; a product then costs no more than sending light through
    the operators. The same as `Problem.jvp` and `Problem.vjp`, for many products at one place.

    Parameters
    ----------
    problem : `Problem`
    free : `torch.Tensor`
        ``(k, pixels)``.
    """

    def __init__(self, problem: Problem, free: torch.Tensor):
        self.problem, self.n_free = problem, free.shape[0]
        whole = problem.whole()
        theta = whole.theta(free)
        self._terms = []
        for data in whole.terms:
            light, columns = whole._model_jacobian(data, theta)
            axis = whole._physical_axis(data)

            def through(light, term=data.term, axis=axis):
                return term.through_instrument(light, axis, problem.grid.shape)

            _, back = torch.func.vjp(through, torch.zeros_like(light))
            self._terms.append((light.shape, columns, data.weight.sqrt(), through, back))

    def push(self, direction: torch.Tensor) -> torch.Tensor:
        """J d for ``(k, pixels)``: ``(samples, pixels)``."""
        parts = []
        for shape, columns, root, through, _ in self._terms:
            light = sum(c * d for c, d in zip(columns, direction, strict=True) if c is not None)
            parts.append(-(root * through(light.expand(shape))).reshape(-1, direction.shape[-1]))
        return torch.cat(parts)

    def pull(self, cotangent: torch.Tensor) -> torch.Tensor:
        """Jᵀ r for ``(samples, pixels)``: ``(k, pixels)``."""
        out = cotangent.new_zeros((self.n_free, cotangent.shape[-1]))
        begin = 0
        for shape, columns, root, _, back in self._terms:
            end = begin + root.numel() // root.shape[-1]
            light = back(-root * cotangent[begin:end].reshape(root.shape))[0]
            for j, column in enumerate(columns):
                if column is not None:
                    out[j] += (column * light).expand(shape).reshape(-1, shape[-1]).sum(0)
            begin = end
        return out

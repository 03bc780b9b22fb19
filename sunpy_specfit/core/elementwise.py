"""Derivatives of functions that treat every pixel alike."""

from __future__ import annotations

from collections.abc import Mapping

import torch

__all__ = ["pixel_gradients"]


def pixel_gradients(
    outputs: Mapping[str, torch.Tensor], leaves: Mapping[str, torch.Tensor]
) -> dict[str, list[dict[str, torch.Tensor]]]:
    """The derivative of each output with respect to each leaf, pixel by pixel.

    One pull-back of a sum gives all pixels at once, for no pixel's output depends on another's input.

    Parameters
    ----------
    outputs : dict of str to `torch.Tensor`
        ``(pixels,)`` or ``(k, pixels)``, computed from the leaves.
    leaves : dict of str to `torch.Tensor`
        That require gradients.

    Returns
    -------
    dict of str to list
        For each output and each of its rows (one for a scalar), leaf name -> derivative shaped as the leaf; leaves
        that do not matter are left out.
    """
    found: dict[str, list[dict[str, torch.Tensor]]] = {}
    for name, output in outputs.items():
        rows = output if output.ndim > 1 else output[None]
        found[name] = []
        for row in rows:
            pulled = (None,) * len(leaves)
            if row.requires_grad:
                pulled = torch.autograd.grad(row.sum(), tuple(leaves.values()), retain_graph=True, allow_unused=True)
            found[name].append({leaf: g for leaf, g in zip(leaves, pulled, strict=True) if g is not None})
    return found

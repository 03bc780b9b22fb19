"""PROVISIONAL, to be replaced by the real one."""
import torch

def find_starts(block, n_starts=1):
    t = block.terms[0]
    y = t.data
    bg = y.amin(0)
    pk, ix = y.max(0)
    x = t.x[ix, 0] if t.x.shape[1] == 1 else t.x.gather(0, ix[None])[0]
    return torch.stack([pk - bg, x, torch.full_like(bg, 1.5), bg])[None]

"""The losses as published, in float64 NumPy: what the ones of `training` are compared with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def _log_sigmoid(x: Array) -> Array:
    return -np.logaddexp(0, -x)


def bce(x: Array, label: float) -> float:
    """Cross-entropy of the sigmoid of x with a label."""
    return float(-(label * _log_sigmoid(x) + (1 - label) * _log_sigmoid(-x)).mean())


def mse(x: Array, label: float) -> float:
    return float(((x - label) ** 2).mean())


def softplus(x: Array) -> float:
    return float(np.logaddexp(0, x).mean())


def discriminator_loss(mode: str, r: Array, f: Array, a: float = 1.0, b: float = 0.0) -> float:
    """For outputs r of real and f of generated images, labels a and b."""
    if mode.startswith("ragan"):
        distance = mse if mode == "ragan_lsgan" else bce
        return (distance(r - f.mean(), a) + distance(f - r.mean(), b)) / 2
    return {
        "vanilla": lambda: bce(r, a) + bce(f, b),
        "lsgan": lambda: mse(r, a) + mse(f, b),
        "wgan": lambda: float(-r.mean() + f.mean()),
        "wgangp": lambda: float(-r.mean() + f.mean()),
        "softplus": lambda: softplus(-r) + softplus(f),
        "hinge": lambda: float(np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean()),
    }[mode]()


def generator_loss(mode: str, r: Array, f: Array, a: float = 1.0, b: float = 0.0) -> float:
    """The generator's side."""
    if mode.startswith("ragan"):
        distance = mse if mode == "ragan_lsgan" else bce
        return (distance(r - f.mean(), b) + distance(f - r.mean(), a)) / 2
    return {
        "vanilla": lambda: bce(f, a),
        "lsgan": lambda: mse(f, a),
        "wgan": lambda: float(-f.mean()),
        "wgangp": lambda: float(-f.mean()),
        "softplus": lambda: softplus(-f),
        "hinge": lambda: float(-f.mean()),
    }[mode]()

"""Constraints that keep a state on a surface: the sphere of a layer norm, the unit sphere of the clustering theory."""

from torch import Tensor

from .normalisers import layer_normalise


class Sphere:
    """The constraint of a normalised state: mean 0 over channels and norm sqrt(width) (Source: layer norm)."""

    def __init__(self, epsilon: float = 1e-12):
        self.epsilon = epsilon

    def retract(self, z: Tensor) -> Tensor:
        """Return the nearest point of the sphere: layer normalisation without gain and bias."""
        return layer_normalise(z, self.epsilon)

    def project(self, z: Tensor, velocity: Tensor) -> Tensor:
        """Return the velocity's tangential part, `P_z velocity`."""
        centred = velocity - velocity.mean(-1, keepdim=True)
        return centred - z * (z * centred).mean(-1, keepdim=True)


class UnitSphere(Sphere):
    """The constraint `|z_i| = 1` for every token (`Sphere` has mean 0 and radius sqrt(width)).

    >>> import torch
    >>> UnitSphere().retract(torch.tensor([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """

    def __init__(self):
        super().__init__(epsilon=0.0)

    def retract(self, z: Tensor) -> Tensor:
        """Return the nearest point of the sphere, `z / |z|`, for states (..., tokens, width)."""
        return z / z.norm(dim=-1, keepdim=True)

    def project(self, z: Tensor, velocity: Tensor) -> Tensor:
        """Return the velocity's tangential part, `velocity - <velocity, z> z`."""
        return velocity - z * (z * velocity).sum(-1, keepdim=True)

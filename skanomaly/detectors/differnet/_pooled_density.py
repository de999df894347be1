"""Densities of pooled vectors v, standardized on the good images, and their gradients.

flow      z = f(v)                             s(v) = 1/D |z|^2       ds/dv by autograd
Gaussian  z = Sigma^-1/2 v, Sigma shrunk       s(v) = 1/D v' P v      ds/dv = 2/D P v,  P = Sigma^-1
"""

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from torch import nn

from skanomaly.detectors._flows import LARGEST, DoubleBlock, Flow
from skanomaly.utils.networks import seeded

EPSILON = 0.01  # added to the variances, which are 1: of two vectors only it spans a space


def build_flow(n_features, hidden_layer_sizes, n_blocks, clamp, seed=0):
    """A flow with weights drawn from a seed, which begins as the identity, but for the order.

    Parameters
    ----------
    n_features : int
        Numbers of a vector, D.
    hidden_layer_sizes : list of int
        Of each of its subnets.
    n_blocks : int
    clamp : float
        Largest logarithm of a factor, nearly.
    seed : int

    Returns
    -------
    Flow
    """
    with seeded(seed % 2**63):
        flow = Flow(
            DoubleBlock(n_features, hidden_layer_sizes, clamp=clamp, seed=(seed + i) % 2**63)
            for i in range(n_blocks)
        )
    for subnet in flow.modules():
        if isinstance(subnet, nn.Sequential):
            nn.init.zeros_(subnet[-1].weight)
            nn.init.zeros_(subnet[-1].bias)
    return flow


class FlowDensity:
    """Scores by a trained flow.

    Parameters
    ----------
    flow : Flow
        In evaluation mode.
    """

    def __init__(self, flow):
        self.flow = flow.eval().requires_grad_(False)

    def scores(self, vectors):
        """Mean z^2 (n,), float64, of vectors (n, D)."""
        with torch.inference_mode():
            return self._mean_squares(self._tensor(vectors)).cpu().numpy()

    def gradient(self, vector):
        """Gradient (D,), float64, of the score of a vector (D,)."""
        tensor = self._tensor(vector[None]).requires_grad_()
        with torch.enable_grad():
            (found,) = torch.autograd.grad(self._mean_squares(tensor).sum(), tensor)
        return found[0].double().cpu().numpy()

    def to(self, device):
        """The same on a device."""
        self.flow.to(device)
        return self

    def _mean_squares(self, tensor):
        return self.flow(tensor)[0].double().square().mean(dim=1)

    def _tensor(self, vectors):
        first = next(iter(self.flow.buffers()))
        return as_tensor(vectors).to(first.device)


class GaussianDensity:
    """Scores by a Gaussian around 0.

    Parameters
    ----------
    precision : ndarray of shape (D, D), float64
        Inverse of the covariance.
    """

    def __init__(self, precision):
        self.precision = precision

    def scores(self, vectors):
        """Squared Mahalanobis distances over D, (n,) float64, of vectors (n, D)."""
        return np.einsum("nd,nd->n", vectors @ self.precision, vectors) / vectors.shape[1]

    def gradient(self, vector):
        """Gradient (D,), float64, of the score of a vector (D,)."""
        return 2 * (self.precision @ vector) / len(vector)

    def to(self, device):
        """Itself: there is no network."""
        return self


def learn_precision(vectors):
    """Inverse (D, D) of the Ledoit-Wolf covariance of vectors (n, D), epsilon on its diagonal."""
    covariance, _ = ledoit_wolf(vectors)
    return np.linalg.inv(covariance + EPSILON * np.eye(len(covariance)))


def as_tensor(vectors):
    """Vectors as float32 tensor, cut where a flow would cut them."""
    return torch.from_numpy(np.clip(vectors, -LARGEST, LARGEST).astype(np.float32))


def share_out(scores, amounts, inside=None):
    """Maps (n, h, w) in proportion to amounts (n, h, w), whose means are the scores (n,).

    The means are over the cells ``inside``, (n, h, w) bool, or over all. Where all amounts are 0,
    as where the flow cuts all numbers, a map is the score everywhere.
    """
    where = {} if inside is None else {"where": inside}
    means = amounts.mean(axis=(1, 2), keepdims=True, **where)
    shares = np.divide(amounts, means, out=np.ones_like(amounts), where=means > 0)
    return scores[:, None, None] * shares

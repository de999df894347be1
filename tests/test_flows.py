"""Flows: blocks against their equations, inverses, and densities that integrate to one."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn

from skanomaly.detectors._flows import AffineBlock, DoubleBlock, Flow, log_likelihood

pytestmark = pytest.mark.usefixtures("one_thread")

N_CONDITION = 4


def far_from_identity(flow, seed=0):
    """The flow with weights that are drawn large, so that it bends what goes through."""
    torch.manual_seed(seed)
    for name, weights in flow.named_parameters():
        size = 6.0 if "last.weight" in name else 0.8
        with torch.no_grad():
            weights += size * torch.randn_like(weights) / max(1, weights.shape[-1]) ** 0.5
    return flow


def make(kind, d, n_blocks=3):
    if kind == "double":
        blocks = [DoubleBlock(d, (7, 5), seed=i) for i in range(n_blocks)]
    else:
        blocks = [AffineBlock(d, N_CONDITION, mixing=kind, seed=i) for i in range(n_blocks)]
    flow = far_from_identity(Flow(blocks)).double()
    if kind == "rotation":  # to the digits of float64, too
        for block in flow.blocks:
            u, _, v = torch.linalg.svd(block.mixing.matrix)
            block.mixing.matrix = u @ v
    return flow


KINDS = ["permutation", "rotation", "double"]
each_kind = pytest.mark.parametrize("kind", KINDS)


def data(n, d, seed=1):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, d))), torch.from_numpy(
        rng.normal(size=(n, N_CONDITION))
    )


@each_kind
@pytest.mark.parametrize("d", [6, 5, 2, 1])
def test_the_log_determinant_is_that_of_the_jacobian(kind, d):
    flow = make(kind, d)
    x, conditions = data(4, d)
    z, log_det = flow(x, conditions)
    for i in range(4):

        def alone(one, i=i):
            return flow(one[None], conditions[i : i + 1])[0][0]

        jacobian = torch.autograd.functional.jacobian(alone, x[i])
        assert torch.linalg.slogdet(jacobian)[1].item() == pytest.approx(log_det[i].item())
    assert z.shape == (4, d)
    assert (log_det.abs().min() > 1e-3) == (kind != "double" or d > 1)


@each_kind
@pytest.mark.parametrize("d", [6, 5, 2, 1])
def test_the_inverse_leads_back(kind, d):
    flow = make(kind, d)
    x, conditions = data(20, d)
    z = flow(x, conditions)[0]
    torch.testing.assert_close(flow.inverse(z, conditions), x, rtol=0, atol=1e-9)
    if d > 1 or kind != "double":
        assert (z - x).abs().max() > 0.1
    x, conditions, flow = x.float(), conditions.float(), flow.float()
    back = flow.inverse(flow(x, conditions)[0], conditions)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)


@each_kind
def test_a_density_integrates_to_one(kind):
    flow = make(kind, 2, n_blocks=2)
    side = torch.linspace(-20, 20, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    conditions = data(1, 2)[1].expand(len(grid), -1)
    with torch.inference_mode():
        density = log_likelihood(*flow(grid, conditions)).exp()
    cell = (side[1] - side[0]).item() ** 2
    assert density.sum().item() * cell == pytest.approx(1, abs=2e-3)
    # A single Gaussian of the same mean and covariance is another one: the flow bends.
    mean = (grid * density[:, None]).sum(0) * cell
    offsets = grid - mean
    covariance = (offsets.T @ (offsets * density[:, None])) * cell
    gaussian = multivariate_normal(mean.numpy(), covariance.numpy()).pdf(grid.numpy())
    assert np.abs(gaussian - density.numpy()).max() > 0.1 * gaussian.max()


def test_scales_and_offsets_alone_make_a_gaussian():
    """With subnets that return 0, x is normal with known means and deviations."""
    block = AffineBlock(3, seed=5)
    nn.init.zeros_(block.last.weight)
    nn.init.zeros_(block.last.bias)
    deviations, means = np.array([0.5, 2.0, 1.5]), np.array([1.0, -2.0, 0.3])
    gamma = 2 * np.log(np.expm1(10 / deviations * 0.5))  # 0.1 softplus(gamma) = 1 / deviation
    block.gamma.data = torch.tensor(gamma, dtype=torch.float32)
    block.offset.data = torch.tensor(-means / deviations, dtype=torch.float32)
    x = np.random.default_rng(0).normal(size=(50, 3))
    found = log_likelihood(*Flow([block])(torch.tensor(x, dtype=torch.float32)))
    expected = multivariate_normal(means, np.diag(deviations**2)).logpdf(x)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4)


def test_a_gaussian_is_learned():
    covariance = np.array([[1.0, 0.8], [0.8, 1.0]])
    x = np.random.default_rng(0).multivariate_normal([0.5, -0.5], covariance, 400)
    rows = torch.tensor(x, dtype=torch.float32)
    torch.manual_seed(0)
    flow = Flow(AffineBlock(2, hidden_ratio=8.0, seed=i) for i in range(3))
    optimizer = torch.optim.Adam(flow.parameters(), 2e-2)
    for _ in range(120):
        loss = -log_likelihood(*flow(rows)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expected = multivariate_normal([0.5, -0.5], covariance).logpdf(x).mean()
    one_by_one = multivariate_normal([0.5, -0.5], np.eye(2)).logpdf(x).mean()
    assert -loss.item() == pytest.approx(expected, abs=0.05)
    assert expected > one_by_one + 0.3  # which the correlation is worth


@each_kind
def test_rows_do_not_depend_on_each_other(kind):
    flow = make(kind, 6).float()
    x, conditions = (part.float() for part in data(9, 6))
    z, log_det = flow(x, conditions)
    for i in range(9):
        alone = flow(x[i : i + 1], conditions[i : i + 1])
        torch.testing.assert_close(alone[0][0], z[i], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(alone[1][0], log_det[i], rtol=1e-5, atol=1e-6)


# --- equations --------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [7, 4])
@pytest.mark.parametrize("n_condition", [4, 0])
@pytest.mark.parametrize("mixing", ["permutation", "rotation"])
def test_an_affine_block_is_its_equations(d, n_condition, mixing):
    block = AffineBlock(d, n_condition, hidden_ratio=1.5, clamp=1.3, mixing=mixing, seed=2)
    block = far_from_identity(block)
    x, conditions = (part.float() for part in data(5, d))
    conditions = conditions if n_condition else None
    y, log_det = block(x, conditions)
    w = {name: value.numpy().astype(float) for name, value in block.state_dict().items()}
    n_kept = d - d // 2
    assert len(w["of_x.weight"]) == round(1.5 * (n_kept + n_condition))
    for i in range(5):
        x1, x2 = x[i, :n_kept].numpy(), x[i, n_kept:].numpy()
        hidden = w["of_x.weight"] @ x1 + w["of_x.bias"]
        if n_condition:
            hidden += w["of_condition.weight"] @ conditions[i].numpy()
        out = w["last.weight"] @ np.maximum(hidden, 0) + w["last.bias"]
        factors = 1.3 * np.tanh(0.1 * out[: d // 2])
        moved = np.concatenate([x1, x2 * np.exp(factors) + 0.1 * out[d // 2 :]])
        scale = 0.1 * np.log1p(np.exp(0.5 * w["gamma"])) / 0.5
        moved = scale * moved + w["offset"]
        if mixing == "permutation":
            moved = moved[block.mixing.order.numpy()]
        else:
            moved = w["mixing.matrix"] @ moved
        np.testing.assert_allclose(y[i].detach(), moved, rtol=1e-4, atol=1e-5)
        expected = factors.sum() + np.log(scale).sum()
        assert log_det[i].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("d", [7, 4])
def test_a_double_block_is_its_equations(d):
    block = far_from_identity(DoubleBlock(d, (6, 5), clamp=2.0, seed=3))
    x = data(5, d)[0].float()
    y, log_det = block(x)

    def moves(subnet, half):
        w = [p.detach().numpy() for p in subnet.parameters()]
        hidden = np.maximum(w[0] @ half + w[1], 0)
        s, t = np.split(w[4] @ np.maximum(w[2] @ hidden + w[3], 0) + w[5], 2)
        return 0.636 * 2.0 * np.arctan(s / 2.0), t

    for i in range(5):
        x1, x2 = np.split(x[i].numpy()[block.mixing.order.numpy()], [d // 2])
        l2, t2 = moves(block.of_second, x2)
        y1 = x1 * np.exp(l2) + t2
        l1, t1 = moves(block.of_first, y1)
        expected = np.concatenate([y1, x2 * np.exp(l1) + t1])
        np.testing.assert_allclose(y[i].detach(), expected, rtol=1e-4, atol=1e-5)
        assert log_det[i].item() == pytest.approx(l1.sum() + l2.sum(), rel=1e-4)


def test_an_affine_block_begins_with_a_scale_of_one():
    block = AffineBlock(6, N_CONDITION)
    nn.init.zeros_(block.last.weight)
    nn.init.zeros_(block.last.bias)
    x, conditions = (part.float() for part in data(5, 6))
    y, log_det = block(x, conditions)
    torch.testing.assert_close(y, x[:, block.mixing.order], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_det, torch.zeros(5), rtol=0, atol=1e-5)


def test_rotations_are_rotations_and_permutations_permutations():
    x = data(8, 5)[0].float()
    for seed in range(4):
        matrix = AffineBlock(5, mixing="rotation", seed=seed).mixing.matrix
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(5), rtol=0, atol=1e-5)
        assert torch.linalg.det(matrix).item() == pytest.approx(1, abs=1e-5)
        mixing = AffineBlock(5, seed=seed).mixing
        assert sorted(mixing.order.tolist()) == list(range(5))
        assert torch.equal(mixing(x), torch.stack([x[:, i] for i in mixing.order], dim=1))
        assert torch.equal(mixing.inverse(mixing(x)), x)


@pytest.mark.parametrize(("d", "millions"), [(512, 5.52), (1024, 17.07), (2048, 59.05)])
def test_the_paper_s_flows_have_so_many_million_weights(d, millions):
    with torch.device("meta"):
        flow = Flow(AffineBlock(d, 128, seed=i) for i in range(8))
    n = sum(weights.numel() for weights in flow.parameters())
    assert round(n / 1e6, 2) == millions


def test_differnet_s_flow_has_172_million_weights():
    with torch.device("meta"):
        flow = Flow(DoubleBlock(768, (2048,) * 3, seed=i) for i in range(8))
    assert round(sum(weights.numel() for weights in flow.parameters()) / 1e6) == 172


def test_what_is_huge_stays_finite():
    flow = make("double", 4).float()
    z, log_det = flow(torch.full((1, 4), 1e30))
    assert torch.isfinite(z).all() and torch.isfinite(log_det).all()


def test_log_likelihoods_are_those_of_a_standard_normal():
    z = data(6, 3)[0]
    expected = multivariate_normal(np.zeros(3), np.eye(3)).logpdf(z.numpy())
    np.testing.assert_allclose(log_likelihood(z, torch.full((6,), 2.5)), expected + 2.5)
    assert log_likelihood(torch.zeros(1, 1), torch.zeros(1)).item() == pytest.approx(
        -math.log(2 * math.pi) / 2
    )

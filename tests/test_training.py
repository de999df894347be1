"""The training loop: optimizers, checkpoints, divergence, early stopping, and its configuration."""

import numpy as np
import pytest
import torch
from torch import nn

from skanomaly import training
from skanomaly.exceptions import TrainingError
from skanomaly.training import TrainingConfig

N_EPOCHS = 4


def config(n_epochs=N_EPOCHS, **parameters):
    return TrainingConfig(n_epochs, **{"device": "cpu", "learning_rate": 0.05, **parameters})


def batches(epoch):
    """Three batches (8, 2) that differ from epoch to epoch, the same whenever asked for."""
    rng = np.random.default_rng(epoch)
    return [torch.from_numpy(rng.normal(size=(8, 2)).astype(np.float32)) for _ in range(3)]


def regression(seed=0):
    """A network with a buffer, and a step that teaches it the sum of its inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))

    def step(batch):
        return (network(batch)[:, 0] - batch.sum(dim=1)).square().mean()

    return network, step


def alternating(seed=0):
    """Two networks that chase each other, one optimizer and one loss for each."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = nn.ModuleDict({"maker": nn.Linear(2, 2), "judge": nn.Linear(2, 1)})

    def step(batch):
        made = networks["maker"](batch)
        yield (networks["judge"](made.detach()) - networks["judge"](batch)).mean()
        yield -networks["judge"](networks["maker"](batch)).mean()

    optimizers = [
        torch.optim.SGD(networks["judge"].parameters(), lr=0.1, momentum=0.9),
        torch.optim.Adam(networks["maker"].parameters(), lr=0.1),
    ]
    return networks, step, optimizers


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_equal_weights(network, expected):
    for name, value in network.state_dict().items():
        assert torch.equal(value, expected[name]), name


# --- optimizers -------------------------------------------------------------------------------


def test_one_optimizer_minimizes_the_loss():
    network, step = regression()
    history = training.fit(network, step, batches, config(30))
    assert list(history) == ["loss"] and len(history["loss"]) == 30
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert not network.training


def test_the_default_is_adam_with_the_configured_rate():
    network, step = regression()
    training.fit(network, step, batches, config(learning_rate=0.02))
    other, other_step = regression()
    adam = torch.optim.Adam(other.parameters(), lr=0.02)
    training.fit(other, other_step, batches, config(), optimizers=adam)
    assert_equal_weights(network, weights(other))


def test_the_loop_is_the_one_that_everybody_writes():
    network, step = regression()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    history = training.fit(
        network, step, batches, config(), optimizers=optimizer, schedulers=scheduler
    )
    other, other_step = regression()
    losses, rate = [], 0.1
    other.train()
    for epoch in range(N_EPOCHS):
        losses.append([])
        for batch in batches(epoch):
            other.zero_grad()
            loss = other_step(batch)
            loss.backward()
            with torch.no_grad():
                for parameter in other.parameters():
                    parameter -= rate * parameter.grad
            losses[-1].append(loss.item())
        rate *= 0.5
    np.testing.assert_allclose(history["loss"], np.mean(losses, axis=1), rtol=1e-5)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value)


def test_the_second_loss_is_computed_after_the_first_step():
    networks = nn.ModuleDict({"first": nn.Linear(1, 1), "second": nn.Linear(1, 1)})
    first, second = (networks[name].weight for name in ("first", "second"))
    seen = []

    def step(batch):
        seen.append((first.item(), second.item()))
        yield (first * batch).sum()  # the gradient is the batch's sum
        seen.append((first.item(), second.item()))
        yield (first.detach() * second * batch).sum()

    optimizers = [torch.optim.SGD([weight], lr=0.1) for weight in (first, second)]
    one_batch = [torch.ones(3, 1)]
    history = training.fit(
        networks, step, lambda epoch: one_batch, config(1), optimizers=optimizers
    )
    (a, b), between = seen
    assert between == pytest.approx((a - 0.3, b))
    after = first.item(), second.item()
    assert after == pytest.approx((a - 0.3, b - 0.3 * (a - 0.3)), abs=1e-6)
    assert history["loss"] == pytest.approx([3 * a + 3 * b * (a - 0.3)], abs=1e-5)


@pytest.mark.parametrize("n_losses", [1, 3])
def test_one_loss_for_each_optimizer(n_losses):
    network, _, optimizers = alternating()

    def other_step(batch):
        for _ in range(n_losses):
            yield sum(value.sum() for value in network.parameters())

    with pytest.raises(ValueError, match=r"shorter|longer"):
        training.fit(network, other_step, batches, config(1), optimizers=optimizers)


def test_bfloat16_reaches_every_loss():
    network, step, optimizers = alternating()
    dtypes = []

    def noting(batch):
        for loss in step(batch):
            dtypes.append(network["maker"](batch).dtype)
            yield loss.float()

    training.fit(network, noting, batches, config(1, dtype="bfloat16"), optimizers=optimizers)
    assert dtypes == [torch.bfloat16] * 6
    assert network["maker"].weight.dtype == torch.float32


# --- checkpoints ------------------------------------------------------------------------------


def run(kind, checkpoint=None, stop_in=None):
    """Train; the batches of the epoch `stop_in` interrupt it."""

    def until(epoch):
        if epoch == stop_in:
            raise KeyboardInterrupt
        return batches(epoch)

    if kind == "two optimizers":
        network, step, optimizers = alternating()
    else:
        network, step = regression()
        optimizers = [torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)]
    schedulers = [
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, N_EPOCHS) for optimizer in optimizers
    ]
    validate = None
    if kind == "validation":

        def validate():
            with torch.inference_mode():
                return step(batches(99)[0]).numpy()  # a 0-d array serves as a number

    history = training.fit(
        network,
        step,
        until,
        config(checkpoint=checkpoint, identity="ours"),
        optimizers=optimizers,
        schedulers=schedulers,
        validate=validate,
    )
    return network, history


@pytest.mark.parametrize("kind", ["one optimizer", "two optimizers", "validation"])
@pytest.mark.parametrize("stop_in", [1, 3])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, kind, stop_in):
    path = tmp_path / "new folder" / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        run(kind, path, stop_in)
    resumed, history = run(kind, path)
    straight, expected = run(kind)
    assert history == expected
    assert_equal_weights(resumed, weights(straight))
    again, same_history = run(kind, path, stop_in=0)  # nothing is left to train
    assert same_history == expected
    assert_equal_weights(again, weights(straight))
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_checkpoint_of_another_identity_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    network, step = regression()
    training.fit(network, step, batches, config(1, checkpoint=path, identity="theirs"))
    other, step = regression(seed=1)
    before = weights(other)
    with pytest.raises(ValueError, match="checkpoint of another training"):
        training.fit(other, step, batches, config(1, checkpoint=path, identity="ours"))
    assert_equal_weights(other, before)
    for content in (b"", b"no checkpoint"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint\.pt: not a checkpoint"):
            training.fit(other, step, batches, config(1, checkpoint=path, identity="ours"))
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="not a checkpoint of this version"):
        training.fit(other, step, batches, config(1, checkpoint=path, identity="ours"))


def test_what_cannot_be_trained_is_refused(tmp_path):
    network, step = regression()
    with pytest.raises(ValueError, match="a checkpoint needs an identity"):
        config(1, checkpoint=tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="expected batches, got none in epoch 1"):
        training.fit(network, step, lambda epoch: [], config(1))
    with pytest.raises(ValueError, match="pass validate, too"):
        training.fit(network, step, batches, config(1, patience=2))


def test_a_validation_that_is_not_finite_keeps_the_last_good_state():
    network, step = regression()
    losses = iter([2.0, float("nan")])
    with pytest.raises(TrainingError, match="the validation is nan in epoch 2") as info:
        training.fit(network, step, batches, config(3), validate=lambda: next(losses))
    assert info.value.history["validation"] == [2.0]


def test_what_layers_draw_repeats_itself():
    def trained():
        network = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))
        with torch.no_grad():
            network[1].weight.fill_(0.5)
            network[1].bias.zero_()
        rows = torch.ones(8, 4)
        step = lambda batch: (network(rows) - 1).square().mean()  # noqa: E731
        state = torch.get_rng_state()
        losses = training.fit(network, step, lambda epoch: [0, 1], config(2))["loss"]
        assert torch.equal(torch.get_rng_state(), state)
        return losses

    assert trained() == trained()


# --- divergence and early stopping ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["loss", "weight"])
def test_divergence_keeps_the_last_good_state(kind):
    network, step = regression()
    good, bad_epoch = {}, 2

    def watched(epoch):
        good[epoch] = weights(network)  # at the start of each epoch
        return [(epoch, i, batch) for i, batch in enumerate(batches(epoch))]

    def diverging(batch):
        epoch, i, batch = batch
        loss = step(batch)
        if epoch == bad_epoch and i == 2:  # the last batch
            if kind == "loss":
                return loss * np.nan
            with torch.no_grad():
                network[0].bias.fill_(np.inf)  # no loss is computed with it
        return loss

    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    advice = "take other images"
    what = {"loss": "the loss is nan", "weight": "a weight is not finite"}[kind]
    with pytest.raises(TrainingError, match=rf"{what} in epoch 3; take other images\.") as caught:
        training.fit(network, diverging, watched, config(advice=advice), optimizers=optimizer)
    assert len(caught.value.history["loss"]) == bad_epoch
    assert_equal_weights(network, good[bad_epoch])
    assert not network.training


def test_validation_stops_early_and_keeps_the_best_state():
    network, step = regression()
    values, states = iter([3.0, 1.0, 2.0, 1.5, 0.5]), []

    def validate():
        assert not network.training
        states.append(weights(network))
        return next(values)

    history = training.fit(network, step, batches, config(5, patience=2), validate=validate)
    assert history["validation"] == [3.0, 1.0, 2.0, 1.5] and len(history["loss"]) == 4
    assert_equal_weights(network, states[1])


def test_without_patience_validation_only_chooses():
    network, step = regression()
    values, states = iter([3.0, 1.0, 2.0, 2.0]), []

    def validate():
        states.append(weights(network))
        return next(values)

    history = training.fit(network, step, batches, config(), validate=validate)
    assert len(history["loss"]) == N_EPOCHS
    assert_equal_weights(network, states[1])


def test_no_epochs_leave_the_network_as_it_is():
    network, step = regression()
    before = weights(network)
    assert training.fit(network, step, batches, config(0)) == {"loss": []}
    assert_equal_weights(network, before)
    assert not network.training


# --- configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"n_epochs": -1}, "n_epochs must be at least 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"device": "toaster"}, "expected device as"),
    ],
)
def test_bad_values_are_refused(parameters, named):
    with pytest.raises(ValueError, match=named):
        TrainingConfig(**{"n_epochs": 1, **parameters})


def test_a_config_is_frozen():
    with pytest.raises(AttributeError):
        config().n_epochs = 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="needs a GPU"):
        config(device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use")
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_two_epochs_on_a_gpu(dtype):
    network, _ = regression()

    def step(batch):
        batch = batch.to("cuda")
        return (network(batch)[:, 0] - batch.sum(dim=1)).square().mean()

    history = training.fit(network, step, batches, config(2, device="cuda", dtype=dtype))
    assert next(network.parameters()).device.type == "cuda"
    other, other_step = regression()
    expected = training.fit(other, other_step, batches, config(2))
    rtol = 1e-4 if dtype == "float32" else 0.1
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=rtol)

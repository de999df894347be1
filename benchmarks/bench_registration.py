"""Training of RegAD's registration with batch norms joined to the convolutions before them.

    python benchmarks/bench_registration.py --root DATA

Steps of a RegistrationNetwork on real images of 224 x 224, in batches as its fit draws them: with
each batch norm joined to its convolution, as it trains, and with all modules as they are. Both take
turns, from the same weights, over the same batches. Results are written to benchmarks/results as
JSON.
"""

import skanomaly  # noqa: F401  # isort: skip  # before torch, whose threads then wait briefly
import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from _machine import machine
from _real_images import real_images

from skanomaly import RegistrationNetwork
from skanomaly.detectors._backbone_stages import check_stages
from skanomaly.detectors.regad._registration import cosine_descent

BACKBONES = ("efficientnet_lite0", "resnet18")
DATASETS = ("casting", "kolektor_sdd", "magnetic_tile")
N_EACH = 20
N_EPOCHS = 4
RESULT = Path(__file__).parent / "results" / "bench_registration.json"


class Training:
    """One training, a batch at a time."""

    def __init__(self, backbone, is_joined):
        self.estimator = RegistrationNetwork(backbone, weights=None, random_state=0)
        self.estimator.stages_ = check_stages(backbone, None)
        self.network = self.estimator._build(None)[0].train()
        if not is_joined:
            self.network._joined = list(self.network.stages)
        self.optimizer, _ = cosine_descent(self.network, 1e-4, None, 0.9, N_EPOCHS)
        self.seconds, self.losses = [], []

    def step(self, pixels, batch):
        began = time.perf_counter()
        self.optimizer.zero_grad()
        loss = self.estimator._loss(self.network, pixels, *batch)
        loss.backward()
        self.optimizer.step()
        self.seconds.append((time.perf_counter() - began) / len(batch[0]))
        self.losses.append(loss.item())


def measure(backbone, pixels, members):
    """Milliseconds an image of both, and how far their losses are apart at most."""
    torch.manual_seed(0)
    both = {"joined": Training(backbone, True), "modules": Training(backbone, False)}
    for epoch in range(N_EPOCHS):
        for batch in both["joined"].estimator._batches(members, epoch):
            for one in both.values():
                one.step(pixels, batch)
    row = {f"{name}_ms": 1000 * statistics.median(o.seconds[1:]) for name, o in both.items()}
    losses = np.array([one.losses for one in both.values()])
    return {
        **row,
        "ratio": row["modules_ms"] / row["joined_ms"],
        "last_loss": float(losses[0, -1]),
        "largest_difference_of_losses": float(np.abs(losses[0] - losses[1]).max()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of data sets")
    root = parser.parse_args().root
    images = np.concatenate([real_images(root, N_EACH, name) for name in DATASETS])
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    members = list(np.arange(len(images)).reshape(len(DATASETS), N_EACH))
    record = {"benchmark": "registration", "datasets": DATASETS, **machine(), "rows": {}}
    for backbone in BACKBONES:
        row = record["rows"][backbone] = measure(backbone, pixels, members)
        print(backbone, ", ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    RESULT.write_text(json.dumps(record) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()

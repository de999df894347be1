"""Few good images: RegAD against other detectors fitted on the same support.

    python benchmarks/few_shot.py --root DATA --weights SQUEEZENET_STATE_DICT [--epochs 3]

Leave one category out: for each data set of DATA a registration network is trained on the good
training images of all others, then ten random supports of k = 2, 4, 8 good images of that set are
drawn. The detectors fitted on each support are RegAD with the trained network; with one trained
without transformers (--ablation), without training, without augmentation; on FilterBank features;
and PaDiM, PatchCore and SPADE on the same 22 augmented images for each image and the features of
the same backbone, unregistered. Printed are the image AUROC on the test images, mean and standard
deviation over the supports, and the pixel AUROC if there are masks. At most --test images of a set,
evenly spaced, are scored. If DATA holds categories of MVTec AD or MPDD, published results are
printed too. Results are written to benchmarks/results as JSON, and the loss curves to docs.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from _published import published
from sklearn.base import clone

from skanomaly import SPADE, FeatureMaps, PaDiM, PatchCore, RegAD, RegistrationNetwork, load_folder
from skanomaly.feature_maps import concatenate
from skanomaly.images import load_batch
from skanomaly.metrics import image_roc_auc_score, pixel_roc_auc_score
from skanomaly.model_selection import GoodOnlyShuffleSplit
from skanomaly.training import augment

PICKED = 0.02  # coreset of PatchCore: the 22 augmented copies of an image are very similar
RESULT = Path(__file__).parent / "results" / "few_shot.json"
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "registration_loss.png"


def networks(options, data, target):
    """The registration network trained on the other categories, and the same untrained."""
    others = {name: one.train.images for name, one in data.items() if name != target}
    images = [image for some in others.values() for image in some[:: options.every]]
    groups = [name for name, some in others.items() for _ in some[:: options.every]]
    shape = {
        "weights": options.weights,
        "learning_rate": options.learning_rate,
        "head_learning_rate": options.head_learning_rate,
        "verbose": 1,
    }
    plain = RegistrationNetwork("squeezenet1_1", n_epochs=0, mode=None, **shape)
    trained = RegistrationNetwork("squeezenet1_1", n_epochs=options.epochs, **shape)
    nets = {
        "trained": trained.fit(images, groups),
        "untrained": plain.fit(images[:2] + images[-2:], groups[:2] + groups[-2:]),
    }
    if options.ablation:
        nets["no transformers"] = clone(trained).set_params(mode=None).fit(images, groups)
    return nets


def with_augmentations(network, images):
    """Features of all augmented copies of some images, (22 n,)."""
    pieces = []
    for i in range(len(images)):
        batch, _ = load_batch(images, [i], network.image_fit, 3)
        every = augment(torch.from_numpy(batch[0].transpose(2, 0, 1).copy()))
        pieces.append(FeatureMaps(network._features(every.permute(0, 2, 3, 1).numpy())))
    maps = concatenate(pieces)
    return FeatureMaps(maps.arrays(), maps.frames, network.image_fit)


def detectors(nets, support):
    """{name: (fitted detector, name of the features it scores)}."""
    plain = with_augmentations(nets["untrained"], support)
    without = {}
    if "no transformers" in nets:
        detector = RegAD(nets["no transformers"]).fit(support)
        without = {"RegAD, no transformers": (detector, "no transformers")}
    return {
        "RegAD": (RegAD(nets["trained"]).fit(support), "trained"),
        **without,
        "RegAD, no training": (RegAD(nets["untrained"]).fit(support), "untrained"),
        "RegAD, no augmentations": (
            RegAD(nets["trained"], augmentations=()).fit(support),
            "trained",
        ),
        "RegAD, FilterBank": (RegAD(random_state=0).fit(support), None),
        "PaDiM": (PaDiM(random_state=0).fit(plain), "untrained"),
        "PatchCore": (
            PatchCore(random_state=0, coreset_ratio=PICKED, image_score="map_max").fit(plain),
            "untrained",
        ),
        "SPADE": (SPADE(n_neighbors=len(support), image_score="map_max").fit(plain), "untrained"),
    }


def evaluate(options, nets, data):
    """{k: {detector: [(image AUROC, pixel AUROC or None), ...]}} over the supports."""
    step = max(1, len(data.test.images) // options.test)
    test = data.test.images[::step]
    target = data.test.target[::step]
    masks = None if data.test.masks is None else data.test.masks[::step]
    features = {name: net.transform(test) for name, net in nets.items()}
    table = {}
    for k in options.shots:
        splitter = GoodOnlyShuffleSplit(options.supports, train_size=k, random_state=0)
        rows = table.setdefault(k, {})
        labels = np.ones(len(data.train.images), dtype=int)
        for chosen, _ in splitter.split(labels, labels):
            support = [data.train.images[i] for i in chosen]
            for name, (detector, kind) in detectors(nets, support).items():
                scores, maps = detector.score_samples_and_map(
                    test if kind is None else features[kind]
                )
                image = 100 * image_roc_auc_score(target, -scores)
                pixel = None if masks is None else 100 * pixel_roc_auc_score(masks, maps)
                rows.setdefault(name, []).append((image, pixel))
    return table


def draw(table):
    """Loss by epoch of each training."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
    for target, row in table.items():
        losses = row["history"]["loss"]
        axes.plot(range(1, len(losses) + 1), losses, "o-", label=f"without {target}")
    axes.set(xlabel="epoch", ylabel="loss: -1 where all match")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    figure.savefig(FIGURE, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of data sets")
    parser.add_argument(
        "--weights", required=True, help="state dict of torchvision's squeezenet1_1"
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--head-learning-rate", type=float, default=3e-2)
    parser.add_argument("--every", type=int, default=1, help="train on every so many-th image")
    parser.add_argument("--ablation", action="store_true", help="one more training for each set")
    parser.add_argument("--shots", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--supports", type=int, default=10)
    parser.add_argument("--test", type=int, default=100)
    options = parser.parse_args()
    data = {p.name: load_folder(p) for p in sorted(options.root.iterdir()) if p.is_dir()}
    record = {
        "benchmark": "few_shot",
        "processor": platform.machine(),
        **{k: v for k, v in vars(options).items() if k not in ("root", "weights")},
        "table": {},
    }
    for target in data:
        began = time.perf_counter()
        nets = networks(options, data, target)
        seconds = time.perf_counter() - began
        print(f"{target:<16} trained in {seconds:.0f} s", flush=True)
        table = evaluate(options, nets, data[target])
        record["table"][target] = {
            "training_s": seconds,  # of all networks of this target
            "history": nets["trained"].history_,
            **table,
        }
        for k, rows in table.items():
            for name, found in rows.items():
                images, pixels = zip(*found, strict=True)
                cells = f"{np.mean(images):6.1f} +- {np.std(images):4.1f}"
                if pixels[0] is not None:
                    cells += f"   pixel {np.mean(pixels):6.1f} +- {np.std(pixels):4.1f}"
                print(f"{target:<16} k={k} {name:<24} {cells}", flush=True)
            for name, value in published(target, k).items():
                print(f"{target:<16} k={k} {name + ', published':<24} {value:6.1f}", flush=True)
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(record) + "\n")
    draw(record["table"])
    print(f"written to {RESULT} and {FIGURE}")


if __name__ == "__main__":
    main()

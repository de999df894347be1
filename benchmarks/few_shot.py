"""Few good images: RegAD against other detectors fitted on the same support.

    python benchmarks/few_shot.py --root DATA [--epochs 5] [--every 4]
    python benchmarks/few_shot.py --root DATA --backbone squeezenet1_1 --weights STATE_DICT
    python benchmarks/few_shot.py --root DATA --baselines DifferNet --supports 3

Leave one category out: for each data set of DATA a registration network is trained on the good
training images of all others, then ten random supports of k = 2, 4, 8 good images of that set are
drawn. The detectors fitted on each support are RegAD with the trained network; with one trained
without transformers (--ablation), without training, which is what fit --few-shot takes on the last
two stages, without augmentation; on FilterBank features; and PaDiM, PatchCore and SPADE on the same
22 augmented images for each image and the stages of the same backbone, unregistered. PatchCore is
also fitted on the default layers of a FeatureExtractor, with and without augmentation, and on
FilterBank features. With --baselines there are, instead of all these, detectors that are trained
on the support alone, and the same trained on RegAD's copies of it as well, which are called "+":
TDG, with quarter turns to be named and without generator, a quarter of the work of the default;
and DifferNet on views and a FilterBank of 128 x 128.
Printed are the image AUROC on the test images, mean and standard deviation over the supports, and
the pixel AUROC if there are masks. At most --test images of a set, evenly spaced, are scored. If
DATA holds categories of MVTec AD or MPDD, published results are printed too. Results are written
to benchmarks/results as JSON, and the loss curves of registration to docs.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from _machine import machine
from _published import published
from sklearn.base import clone

from skanomaly import (
    SPADE,
    TDG,
    DifferNet,
    FeatureExtractor,
    FeatureMaps,
    FilterBank,
    PaDiM,
    PatchCore,
    RegistrationNetwork,
    load_folder,
)
from skanomaly.feature_maps import concatenate
from skanomaly.images import load_batch
from skanomaly.metrics import image_roc_auc_score, pixel_roc_auc_score
from skanomaly.model_selection import GoodOnlyShuffleSplit
from skanomaly.training import AUGMENTATIONS, augment

BACKBONE = "efficientnet_lite0"
PICKED = 0.005  # coreset of PatchCore: the 22 augmented copies of an image are very similar
RESULTS = Path(__file__).parent / "results"
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "registration_loss.png"


def networks(options, data, target):
    """The registration network trained on the other categories, the same untrained, and layers."""
    others = {name: one.train.images for name, one in data.items() if name != target}
    images = [image for some in others.values() for image in some[:: options.every]]
    groups = [name for name, some in others.items() for _ in some[:: options.every]]
    shape = {
        "weights": options.weights,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "head_learning_rate": options.head_learning_rate,
        "verbose": 1,
    }
    plain = RegistrationNetwork(options.backbone, n_epochs=0, mode=None, **shape)
    trained = RegistrationNetwork(options.backbone, n_epochs=options.epochs, **shape)
    nets = {
        "trained": trained.fit(images, groups=groups),
        "untrained": plain.fit(images[:2] + images[-2:], groups=groups[:2] + groups[-2:]),
    }
    if options.ablation:
        nets["no transformers"] = clone(trained).set_params(mode=None).fit(images, groups=groups)
    layers = FeatureExtractor(options.backbone, weights=options.weights, image_size=224)
    return {**nets, "default layers": layers.fit(None)}


class Copies:
    """Features of the augmented copies of training images, computed once for all supports.

    Parameters
    ----------
    extractor : fitted extractor
    images : list of paths
    """

    def __init__(self, extractor, images):
        self.extractor, self.images, self.found = extractor, images, {}

    def __call__(self, support, n_copies=22):
        """FeatureMaps (n_copies * k,) of the images at some places; the first copy is itself."""
        maps = concatenate([self._of(i)[:n_copies] for i in support.tolist()])
        return FeatureMaps(maps.arrays(), maps.frames, self.extractor.image_fit)

    def _of(self, i):
        if i not in self.found:
            n_channels = self.extractor.n_channels_in_
            batch, _ = load_batch(self.images, [i], self.extractor.image_fit, n_channels)
            every = augment(torch.from_numpy(batch[0].transpose(2, 0, 1).copy()))
            pixels = every.permute(0, 2, 3, 1).numpy()
            self.found[i] = FeatureMaps(self.extractor._features(pixels))
        return self.found[i]


def last_two(maps):
    """The last two of a network's three stages."""
    layers = dict(list(maps.arrays().items())[1:])
    return FeatureMaps(layers, maps.frames, maps.image_fit)


def regad(patch_size=1):
    """RegAD on features at hand: tests hold that it is this Gaussian."""
    return PaDiM(n_components=None, shrinkage="ledoit_wolf", patch_size=patch_size)


def patchcore(ratio):
    return PatchCore(random_state=0, coreset_ratio=ratio)


def detectors(copies, features, support):
    """Yields (name, detector, features of the support, features of the test images)."""
    plain, test = copies["untrained"](support), features["untrained"]
    yield "RegAD", regad(), copies["trained"](support), features["trained"]
    if "no transformers" in copies:
        name = "no transformers"
        yield f"RegAD, {name}", regad(), copies[name](support), features[name]
    yield "RegAD, no training", regad(), plain, test
    alone = copies["trained"](support, n_copies=1)
    yield "RegAD, no augmentations", regad(), alone, features["trained"]
    yield "PaDiM", PaDiM(random_state=0), plain, test
    shrunk = PaDiM(random_state=0, shrinkage="ledoit_wolf")
    yield "PaDiM, shrinkage", shrunk, plain, test
    yield "PatchCore", patchcore(PICKED), plain, test
    yield "SPADE", SPADE(n_neighbors=len(support)), plain, test
    yield "RegAD, no training, two stages", regad(), last_two(plain), last_two(test)
    layers, test = copies["default layers"], features["default layers"]
    alone = layers(support, n_copies=1)
    yield "PaDiM, default layers, no augmentations", PaDiM(random_state=0), alone, test
    yield "PatchCore, default layers, no augmentations", patchcore("auto"), alone, test
    yield "PatchCore, default layers", patchcore(PICKED), layers(support), test


def filter_bank_detectors(images, test, support):
    """The same on a FilterBank, which is learned from the support itself."""
    chosen = [images[i] for i in support]
    bank = FilterBank(random_state=0).fit(chosen)
    features, plain = bank.transform(test), Copies(bank, chosen)(np.arange(len(chosen)))
    yield "RegAD, FilterBank", regad(patch_size=3), plain, features
    yield "PatchCore, FilterBank", patchcore(PICKED), plain, features


def baselines(names, images, test):
    """A function of a support that yields the same of detectors trained on it."""
    bank = FilterBank(image_size=128, random_state=0)
    known = {"TDG": TDG(transformations="turns", generator=False), "DifferNet": DifferNet(bank)}

    def runs(support):
        chosen = [images[i] for i in support]
        for name in names:
            yield name, clone(known[name]), chosen, test
            more = clone(known[name]).set_params(augmentations=AUGMENTATIONS)
            yield f"{name}+", more, chosen, test

    return runs


def untrained(nets, images, test):
    """A function of a support that yields the same of detectors on the networks' features."""
    features = {name: net.transform(test) for name, net in nets.items()}
    copies = {name: Copies(net, images) for name, net in nets.items()}

    def runs(support):
        yield from detectors(copies, features, support)
        yield from filter_bank_detectors(images, test, support)

    return runs


def evaluate(options, nets, data):
    """{k: {detector: [(image AUROC, pixel AUROC or None), ...]}} over the supports."""
    step = max(1, len(data.test.images) // options.test)
    test = data.test.images[::step]
    target = data.test.target[::step]
    masks = None if data.test.masks is None else data.test.masks[::step]
    images = data.train.images
    if options.baselines:
        runs = baselines(options.baselines, images, test)
    else:
        runs = untrained(nets, images, test)
    table = {}
    for k in options.shots:
        splitter = GoodOnlyShuffleSplit(options.supports, train_size=k, random_state=0)
        rows = table.setdefault(k, {})
        labels = np.ones(len(images), dtype=int)
        for support, _ in splitter.split(labels, labels):
            for name, detector, good, X in runs(support):
                scores, maps = detector.fit(good).score_samples_and_map(X)
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


def show(target, table):
    """Print the rows of a set."""
    for k, rows in table.items():
        for name, found in rows.items():
            images, pixels = zip(*found, strict=True)
            cells = f"{np.mean(images):6.1f} +- {np.std(images):4.1f}"
            if pixels[0] is not None:
                cells += f"   pixel {np.mean(pixels):6.1f} +- {np.std(pixels):4.1f}"
            print(f"{target:<16} k={k} {name:<44} {cells}", flush=True)
        for name, value in published(target, k).items():
            print(f"{target:<16} k={k} {name + ', published':<44} {value:6.1f}", flush=True)


def show_means(table):
    """Print each detector's mean image AUROC over the sets."""
    for k in (key for key in next(iter(table.values())) if isinstance(key, int)):
        for name in next(iter(table.values()))[k]:
            means = [np.mean([image for image, _ in row[k][name]]) for row in table.values()]
            print(f"{'mean':<16} k={k} {name:<44} {np.mean(means):6.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--backbone", default=BACKBONE, help=f"default: {BACKBONE}")
    parser.add_argument("--weights", default="DEFAULT", help="state dict; default: those installed")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--head-learning-rate", type=float, default=3e-2)
    parser.add_argument("--every", type=int, default=1, help="train on every so many-th image")
    parser.add_argument("--ablation", action="store_true", help="one more training for each set")
    parser.add_argument("--baselines", nargs="+", choices=["TDG", "DifferNet"], default=[])
    parser.add_argument("--shots", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--supports", type=int, default=10)
    parser.add_argument("--test", type=int, default=100)
    options = parser.parse_args()
    data = {p.name: load_folder(p) for p in sorted(options.root.iterdir()) if p.is_dir()}
    result = "few_shot" if options.backbone == BACKBONE else f"few_shot_{options.backbone}"
    if options.baselines:
        result = "few_shot_" + "_".join(name.lower() for name in options.baselines)
    path = RESULTS / f"{result}.json"
    record = {
        "benchmark": "few_shot",
        **machine(),
        **{k: v for k, v in vars(options).items() if k not in ("root", "weights")},
        "table": {},
    }
    for target in data:
        began, nets, training = time.perf_counter(), {}, {}
        if not options.baselines:
            nets = networks(options, data, target)
            training["training_s"] = time.perf_counter() - began  # of all networks of this target
            training["history"] = nets["trained"].history_
            print(f"{target:<16} trained in {training['training_s']:.0f} s", flush=True)
        table = evaluate(options, nets, data[target])
        record["table"][target] = {**training, **table}
        show(target, table)
        path.write_text(json.dumps(record) + "\n")
    show_means(record["table"])
    print(f"written to {path}")
    if not options.baselines:
        draw(record["table"])
        print(f"written to {FIGURE}")


if __name__ == "__main__":
    main()

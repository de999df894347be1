"""Missing, misaligned and bent structures on generated plates: GlobalLocal, PatchCore and PaDiM.

    python benchmarks/structural.py [--dtype bfloat16]

Image and pixel AUROC in %, by kind of defect, on generated drilled plates of 128 x 128: 60 good
ones for training, 40 good ones and 30 of each kind for testing. All detectors use FilterBank
features, GlobalLocal as its teacher.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from skanomaly import FilterBank, GlobalLocal, PaDiM, PatchCore, Pipeline
from skanomaly.datasets import make_defects, make_textures
from skanomaly.metrics import image_roc_auc_score, pixel_roc_auc_score
from skanomaly.utils.unwrapping import scores_and_maps

SIZE, N_TRAINING, N_GOOD, N_BAD = 128, 60, 40, 30
KINDS = ("missing", "misaligned", "bent")
RESULT = Path(__file__).parent / "results" / "structural.json"


def make():
    """Plates for training; plates for testing, their kinds ("" is good) and masks."""
    n_bad = N_BAD * len(KINDS)
    plates = make_textures(N_TRAINING + N_GOOD + n_bad, kind="grid", size=SIZE, random_state=0)
    good, bad = plates[: N_TRAINING + N_GOOD], plates[N_TRAINING + N_GOOD :]
    images, masks, kinds = [good[N_TRAINING:]], [np.zeros((N_GOOD, SIZE, SIZE), bool)], []
    for i, kind in enumerate(KINDS):
        part = bad[i * N_BAD : (i + 1) * N_BAD]
        changed, where, _ = make_defects(part, kinds=[kind], random_state=i)
        images.append(changed)
        masks.append(where)
        kinds += [kind] * N_BAD
    return (
        good[:N_TRAINING],
        np.concatenate(images),
        np.r_[[""] * N_GOOD, kinds],
        np.concatenate(masks),
    )


def fitted(good, dtype):
    """(name, detector) of each; GlobalLocal, trained once, also with either score alone."""
    detector = GlobalLocal(image_size=SIZE, dtype=dtype, verbose=1).fit(good)
    yield "GlobalLocal", detector
    yield "GlobalLocal, IAD alone", detector.set_params(iad_weight=1.0)
    yield "GlobalLocal, DAD alone", detector.set_params(iad_weight=0.0)
    for name, detector in (
        ("PatchCore", PatchCore(image_score="map_max", random_state=0)),
        ("PatchCore, single cells", PatchCore(patch_size=1, image_score="map_max", random_state=0)),
        ("PaDiM", PaDiM(random_state=0)),
    ):
        features = FilterBank(image_size=SIZE, random_state=0)
        yield name, Pipeline([("features", features), ("detector", detector)]).fit(good)


def measure(kinds, masks, scores, maps):
    """Image and pixel AUROC by kind of defect, each against all good plates, and overall."""
    row = {}
    for name, among in [(k, np.isin(kinds, ["", k])) for k in KINDS] + [
        ("all", np.full(len(kinds), True))
    ]:
        labels = np.where(kinds[among] == "", 1, -1)
        row[name] = {
            "image_auroc": 100 * image_roc_auc_score(labels, -scores[among]),
            "pixel_auroc": 100 * pixel_roc_auc_score(masks[among], maps[among]),
        }
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    good, images, kinds, masks = make()
    table = {}
    for name, detector in fitted(good, options.dtype):
        table[name] = measure(kinds, masks, *scores_and_maps(detector, images))
        cells = [
            f"{kind} {one['image_auroc']:.1f} / {one['pixel_auroc']:.1f}"
            for kind, one in table[name].items()
        ]
        print(f"{name:<24}" + "   ".join(cells), flush=True)
    record = {"benchmark": "structural", "dtype": options.dtype, "size": SIZE, "table": table}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()

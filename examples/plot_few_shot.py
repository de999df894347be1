"""
A detector from four good pictures
==================================

RegAD learns from a handful of good pictures and of what they might have looked like too: each is
rotated, shifted, mirrored and turned grey, 22 pictures in all. Here on made-up parts, with the
features of a FilterBank, which need no training.
"""

# %%
# Many good pictures to draw supports from, and a test with 20 good and 20 defective ones.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator

from skanomaly import RegAD
from skanomaly.datasets import make_inspection
from skanomaly.display import ScoreMapDisplay
from skanomaly.metrics import image_roc_auc_score
from skanomaly.model_selection import GoodOnlyShuffleSplit, HeldOutThreshold

data = make_inspection(30, 20, 20, kind="weave", size=128, random_state=0)
good, test = data.train.images, data.test

# %%
# What a result owes to the choice of the support, only several draws can say. Each draw trains on
# ``train_size`` good pictures.

shots = (1, 2, 4, 8)
found = {}
for k in shots:
    draws = GoodOnlyShuffleSplit(3, train_size=k, random_state=0).split(good, np.ones(len(good)))
    found[k] = []
    for support, _ in draws:
        detector = RegAD(image_size=128, random_state=0).fit(good[support])
        found[k].append(image_roc_auc_score(test.target, -detector.score_samples(test.images)))
    print(f"k = {k}: image AUROC {np.mean(found[k]):.3f} +- {np.std(found[k]):.3f}")

figure, ax = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
for k, values in found.items():
    ax.plot([k] * len(values), values, "C0.")
ax.plot(shots, [np.mean(found[k]) for k in shots], "C0-")
ax.set(xlabel="good pictures", ylabel="image AUROC", xticks=shots)

# %%
# The detector knows its eight pictures by heart: by their scores every new one would be a defect.
# The threshold comes with the next good parts: here from the 22 that were not in the support.

others = np.setdiff1d(np.arange(len(good)), support)
model = HeldOutThreshold(FrozenEstimator(detector), target_fpr=0.1, cv=2).fit(good[others])
is_alarm = model.predict(test.images) == -1
print(f"good parts flagged: {is_alarm[test.target == 1].mean():.0%}")
print(f"defects found: {is_alarm[test.target == -1].mean():.0%}")
ScoreMapDisplay.from_estimator(model, test.images, test.masks, names=test.names, n_images=8)
plt.show()

# sphinx_gallery_thumbnail_number = 2

"""
A detector from four good images
================================

RegAD is fitted on a handful of good images and their augmentations: each is rotated, shifted,
mirrored and converted to gray, 22 images in all. Here on generated parts, with the features of a
FilterBank, which need no training.
"""

# %%
# Many good images to draw supports from, and a test set with 20 good and 20 defective ones.

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
# Results depend on the choice of the support, so several supports are drawn, each of
# ``train_size`` good images.

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
ax.set(xlabel="good images", ylabel="image AUROC", xticks=shots)

# %%
# The detector overfits its eight images: with a threshold from their scores, every new image would
# be predicted as defective. Instead, the threshold comes from the 22 good images that are not in
# the support.

others = np.setdiff1d(np.arange(len(good)), support)
model = HeldOutThreshold(FrozenEstimator(detector), target_fpr=0.1, cv=2).fit(good[others])
is_alarm = model.predict(test.images) == -1
print(f"good parts flagged: {is_alarm[test.target == 1].mean():.0%}")
print(f"defects found: {is_alarm[test.target == -1].mean():.0%}")
ScoreMapDisplay.from_estimator(model, test.images, test.masks, names=test.names, n_images=8)
plt.show()

# sphinx_gallery_thumbnail_number = 2

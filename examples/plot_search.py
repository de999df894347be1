"""
Choosing settings, with and without defects
===========================================

A search needs defects to tell good settings from bad ones. Two ways: the few real ones at hand, or
synthetic ones painted into good images.
"""

# %%
# Thirty good parts, and two dozen defective ones, half of them put aside for the last judgement.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV, KFold

from skanomaly import FilterBank, PatchCore, Pipeline
from skanomaly.datasets import make_inspection
from skanomaly.model_selection import GoodOnlyKFold, HeldOutThreshold, scorers

data = make_inspection(30, 30, 24, kind="brushed", size=64, random_state=0)
good, test = data.train.images, data.test
is_known = (test.target == -1) & (np.arange(len(test.target)) % 2 == 0)

features = FilterBank(n_filters=8, image_size=64, random_state=0)
detector = PatchCore(image_score="map_max", random_state=0)
sigmas = [0.0, 2.0, 4.0, 8.0]

# %%
# Without any defect: each held-out good image is judged as it is, and with a defect painted in.

without = GridSearchCV(
    Pipeline([("features", features), ("detector", detector)]),
    {"detector__sigma": sigmas},
    cv=KFold(2),
    scoring=scorers("image_auroc", "aupro", synthetic=True),
    refit="aupro",
)
without.fit(good)

# %%
# With the known defects: masks are given as y. Models learn from good images only; every known
# defect is in each test part. Only the detector's settings are searched, so the features are made
# once, by filters learned from the good images.

features.fit(good)
X = features.transform(np.concatenate([good, test.images[is_known]]))
y = np.concatenate([np.zeros(good.shape[:3], dtype=bool), test.masks[is_known]])
known = GridSearchCV(
    detector,
    {"sigma": sigmas},
    cv=GoodOnlyKFold(2),
    scoring=scorers("image_auroc", "aupro"),
    refit="aupro",
)
known.fit(X, y)

# %%
# A search refits its best candidate on all of X, the defects too. ``HeldOutThreshold`` starts from
# a clone of it, learns from the good images alone, and sets the threshold in the same go.

model = HeldOutThreshold(known.best_estimator_, target_fpr=0.1, cv=2, random_state=0).fit(X, y)
verdicts = model.predict(features.transform(test.images[~is_known]))
is_good = test.target[~is_known] == 1
print("without defects:", without.best_params_, "- with known ones:", known.best_params_)
print(f"good parts flagged: {np.mean(verdicts[is_good] == -1):.0%}")
print(f"new defects found: {np.mean(verdicts[~is_good] == -1):.0%}")

# %%
# Values on synthetic defects are not those on real ones; it is the order of the settings that
# counts.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True)
for ax, name in zip(axes, ["aupro", "image_auroc"], strict=True):
    for label, search in {"synthetic defects": without, "known defects": known}.items():
        values = search.cv_results_[f"mean_test_{name}"]
        ax.plot(range(len(values)), values, "o-", label=label)
    ax.set_xticks(range(len(sigmas)), sigmas)
    ax.set(title=name, xlabel="sigma, pixels")
axes[0].legend()
figure.tight_layout()
plt.show()

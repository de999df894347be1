"""
Hyper-parameter search, with and without defects
================================================

A search needs defects to rank settings: either a few real ones, or synthetic ones added to good
images.
"""

# %%
# Thirty good parts, and two dozen defective ones, half of which are kept for the final test.

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
# Without defects: each held-out good image is scored as it is, and with a synthetic defect.

without = GridSearchCV(
    Pipeline([("features", features), ("detector", detector)]),
    {"detector__sigma": sigmas},
    cv=KFold(2),
    scoring=scorers("image_auroc", "aupro", synthetic=True),
    refit="aupro",
)
without.fit(good)

# %%
# With known defects: masks are passed as y. Models are fitted on good images only; every known
# defect is in each test fold. Only the detector's settings are searched, so the features are
# computed once, with filters learned from the good images.

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
# ``HeldOutThreshold`` fits a clone of the best estimator on the good images only and sets the
# threshold.

model = HeldOutThreshold(known.best_estimator_, target_fpr=0.1).fit(X, y)
verdicts = model.predict(features.transform(test.images[~is_known]))
is_good = test.target[~is_known] == 1
print("without defects:", without.best_params_, "- with known ones:", known.best_params_)
print(f"good parts flagged: {np.mean(verdicts[is_good] == -1):.0%}")
print(f"new defects found: {np.mean(verdicts[~is_good] == -1):.0%}")

# %%
# Scores on synthetic defects differ from those on real ones; only the ranking of the settings
# matters.

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

"""
A threshold that holds on new parts
===================================

The scores of the training images set no useful threshold: a detector has learned these very images.
This example compares two ways to set a threshold for 5 % false alarms, on good parts that are
inspected later.
"""

# %%
# Good parts for training, and later ones, good and defective.

import matplotlib.pyplot as plt
import numpy as np

from skanomaly import FilterBank, PatchCore, Pipeline
from skanomaly.datasets import make_inspection
from skanomaly.model_selection import HeldOutThreshold

data = make_inspection(60, 100, 20, kind="brushed", size=64, random_state=0)
later, is_good = data.test.images, data.test.target == 1

# %%
# ``contamination`` sets the threshold so that 5 % of the training images lie below it.
# ``HeldOutThreshold`` scores every image as if it were new, without what was learned from it.

detector = PatchCore(sigma=2.0, contamination=0.05, random_state=0)
pipe = Pipeline([("features", FilterBank(image_size=64, random_state=0)), ("detector", detector)])
model = HeldOutThreshold(pipe, target_fpr=0.05)
model.fit(data.train.images)

scores = model.score_samples(later)
offsets = {"contamination": model.estimator_[-1].offset_, "held out": model.offset_}
for name, offset in offsets.items():
    alarms, found = np.mean(scores[is_good] < offset), np.mean(scores[~is_good] < offset)
    print(f"{name}: {alarms:.0%} false alarms, {found:.0%} of the defects found")
print("expected on 100 good parts: {} to {} false alarms".format(*model.false_alarm_interval(100)))

# %%
# The same parts score lower as if they were new. A threshold from the upper row flags many of the
# later good parts.

rows = {
    "learned": model.score_samples(data.train.images),
    "held out": model.oof_scores_,
    "later, good": scores[is_good],
    "later, defective": scores[~is_good],
}
figure, left = plt.subplots(figsize=(8, 3.6), layout="constrained")
for height, values in enumerate(rows.values()):
    left.plot(values, np.full(len(values), -height), "|", markersize=18)
left.set_yticks(-np.arange(len(rows)), rows)
for (name, offset), style in zip(offsets.items(), ["--", "-"], strict=True):
    left.axvline(offset, color="black", linestyle=style, label=f"threshold: {name}")
left.set(xlabel="score_samples (low = defect)", ylim=(-3.5, 0.9))
left.legend(loc="upper left")

# %%
# The score map has its own threshold: about 5 % of good parts have any pixel above it.

worst = np.argmin(scores)
heat = model.score_map(later[worst : worst + 1])[0]
figure, right = plt.subplots(figsize=(4, 3.6), layout="constrained")
right.imshow(later[worst])
right.contour(heat, levels=[model.map_offset_], colors="red")
right.set(title=f"a {data.test.defects[worst]}, outlined at map_offset_", xticks=[], yticks=[])
plt.show()

"""
Look at what a detector found
=============================

1. Make an inspection task: good pictures of a fabric, and test pictures with defects.
2. Fit a pipeline, with a threshold for the false alarms that are bearable.
3. Draw score maps, the histogram of scores with its false alarms, and the PRO curve.
"""

import matplotlib.pyplot as plt

from skanomaly import FilterBank, PatchCore, Pipeline
from skanomaly.datasets import make_inspection
from skanomaly.display import ProCurveDisplay, ScoreHistogramDisplay, ScoreMapDisplay
from skanomaly.model_selection import HeldOutThreshold

# %%
# 1. 32 good pictures to learn from, 16 good and 16 defective ones to test. Masks mark the pixels
# that each defect changed.

data = make_inspection(32, 16, 16, kind="weave", size=128, random_state=0)

# %%
# 2. Scores of the training pictures are too good to be true: a threshold set on them would call
# almost every new picture a defect. Each picture is therefore scored by a model that has not seen
# it, and at most 5 % of new good pictures are to raise an alarm.

features = FilterBank(image_size=128, random_state=0)
pipe = Pipeline([("features", features), ("detector", PatchCore(random_state=0))])
model = HeldOutThreshold(pipe, target_fpr=0.05, cv=2, random_state=0)
model.fit(data.train.images)

# %%
# 3. One scale of colours for all pictures: good ones stay dark. The cyan line is the truth.

ScoreMapDisplay.from_estimator(
    model, data.test.images, data.test.masks, names=data.test.names, n_images=12
)

figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
ScoreHistogramDisplay.from_estimator(model, data.test.images, data.test.target, ax=axes[0])
ProCurveDisplay.from_estimator(model, data.test.images, data.test.masks, ax=axes[1])

plt.show()

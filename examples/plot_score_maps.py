"""
Visualize the results of a detector
===================================

1. Generate an inspection task: good images of a fabric, and test images with defects.
2. Fit a pipeline, with a threshold for an acceptable false alarm rate.
3. Plot score maps, the histogram of scores with its false alarms, and the PRO curve.
"""

import matplotlib.pyplot as plt

from skanomaly import FilterBank, PatchCore, Pipeline
from skanomaly.datasets import make_inspection
from skanomaly.display import ProCurveDisplay, ScoreHistogramDisplay, ScoreMapDisplay
from skanomaly.model_selection import HeldOutThreshold

# %%
# 1. 60 good images for training; 20 good and 20 defective ones for testing. Masks mark the pixels
# that each defect changed.

data = make_inspection(60, 20, 20, kind="weave", size=128, random_state=0)

# %%
# 2. A detector's own threshold comes from its training images, and almost every new image would
# be predicted as defective. Here each image is scored as if it were new, and about 10 % of new good
# ones raise an alarm.

features = FilterBank(image_size=128, random_state=0)
pipe = Pipeline([("features", features), ("detector", PatchCore(random_state=0))])
model = HeldOutThreshold(pipe, target_fpr=0.1).fit(data.train.images)

# %%
# 3. All heat maps share one color scale: good images stay dark. The ground truth is cyan.

ScoreMapDisplay.from_estimator(
    model, data.test.images, data.test.masks, names=data.test.names, n_images=12
)

figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
ScoreHistogramDisplay.from_estimator(model, data.test.images, data.test.target, ax=axes[0])
ProCurveDisplay.from_estimator(model, data.test.images, data.test.masks, ax=axes[1])

plt.show()

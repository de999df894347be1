"""
Why is an image predicted as defective?
=======================================

Two functions explain a prediction: ``score_regions`` returns the regions above the threshold, and
``nearest_good`` the good patch that each hot spot is nearest to.
"""

# %%
# Good images for training, and test images with defects. For the threshold each good image is
# scored as if it were new.

import matplotlib.pyplot as plt

from skanomaly import FilterBank, PatchCore, Pipeline, nearest_good, score_regions
from skanomaly.datasets import make_inspection
from skanomaly.display import NearestGoodDisplay
from skanomaly.model_selection import HeldOutThreshold

data = make_inspection(40, 4, 10, kind="weave", size=128, random_state=0)
good, images = data.train.images, data.test.images

features = FilterBank(image_size=128, random_state=0)
detector = PatchCore(coreset_ratio=0.05, image_score="map_max", random_state=0)
pipe = Pipeline([("features", features), ("detector", detector)])
model = HeldOutThreshold(pipe, target_fpr=0.1).fit(good)

# %%
# One record for each region above the score map's threshold, in the image's own pixels.

regions = score_regions(model, images)
for region in regions[:5]:
    name = data.test.names[region["image"]]
    print(f"{name}: row {region['top']}, column {region['left']}, {region['area']} pixels")

# %%
# The regions in red on the images, and the outline of the true defects in cyan. A good image among
# them is a false alarm: with ``target_fpr=0.1``, one in ten may be.

shown = list(dict.fromkeys(region["image"] for region in regions))[:4]
figure, axes = plt.subplots(1, 4, figsize=(10, 3), layout="constrained")
for ax, i in zip(axes, shown, strict=True):
    ax.imshow(images[i])
    ax.contour(data.test.masks[i], levels=[0.5], colors="cyan", linewidths=1)
    for region in (region for region in regions if region["image"] == i):
        height, width = region["bottom"] - region["top"], region["right"] - region["left"]
        corner = (region["left"], region["top"])
        ax.add_patch(plt.Rectangle(corner, width, height, fill=False, color="red", linewidth=2))
    ax.set_title(data.test.names[i], fontsize=9)
    ax.set_axis_off()

# %%
# The good patch that each hot spot is nearest to. If the two crops look alike, it is probably a
# false alarm.

spot = nearest_good(model, images[shown[:1]])[0]
print(f"nearest: good image {spot['good_image']}, at row {spot['good_top']}")

NearestGoodDisplay.from_estimator(model, images[shown], good)
plt.show()

# sphinx_gallery_thumbnail_number = 2

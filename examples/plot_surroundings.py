"""
Missing and displaced structures with GlobalLocal
=================================================

GlobalLocal compares the embedding of each patch with its prediction from the surroundings. On a
drilled plate, a patch of plain metal is normal, except where a hole should be.
"""

# %%
# Good plates, and plates with a structure missing, misaligned or bent. Half a minute of training is
# enough for this example; the default takes a few more.

import matplotlib.pyplot as plt
import numpy as np

from skanomaly import GlobalLocal
from skanomaly.datasets import make_defects, make_textures
from skanomaly.metrics import image_roc_auc_score

plates = make_textures(70, kind="grid", size=128, random_state=0)
good, test_good = plates[:40], plates[40:55]
bad, masks, kinds = make_defects(
    plates[55:], kinds=["missing", "misaligned", "bent"], random_state=1
)

detector = GlobalLocal(image_size=128, n_iter=(60, 0, 200)).fit(good)

# %%
# The loss of each phase, averaged over 25 iterations: Local-Net learns from its teacher, a
# FilterBank; then Global-Net learns to predict Local-Net's output.

figure, ax = plt.subplots(figsize=(5.5, 3), layout="constrained")
begin = 0
for name in ("33-distillation", "33-joint"):
    losses = detector.history_[name]
    ax.plot(25 * (begin + np.arange(1, len(losses) + 1)), losses, ".-", label=name)
    begin += len(losses)
ax.set(xlabel="iteration", ylabel="loss")
ax.legend(frameon=False)

# %%
# Scores and score maps of good and defective plates.

images = np.concatenate([test_good, bad])
labels = np.r_[np.ones(len(test_good), int), -np.ones(len(bad), int)]
scores, maps = detector.score_samples_and_map(images)
print(f"image AUROC {image_roc_auc_score(labels, -scores):.3f}")

shown = [0, 15, 16, 17]
names = ["good", *kinds[:3]]
figure, axes = plt.subplots(2, 4, figsize=(8, 4.2), layout="constrained")
for column, i in enumerate(shown):
    axes[0, column].imshow(images[i])
    axes[0, column].set_title(names[column], fontsize=10)
    axes[1, column].imshow(maps[i], vmin=maps[0].min(), vmax=maps[shown].max(), cmap="inferno")
for ax in axes.flat:
    ax.set_axis_off()
plt.show()

# sphinx_gallery_thumbnail_number = 2

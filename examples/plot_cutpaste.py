"""
Pasted pieces as made-up defects: CutPaste
==========================================

CutPaste has no defect to learn from, so it makes some: it cuts a piece out of a good image, pastes
it elsewhere, and trains a network to see that. What the network then looks at tells real defects
from good surfaces, too.
"""

# %%
# A good fabric, and the two kinds of pastes: a rectangle, and a scar, which is narrow and rotated.

import matplotlib.pyplot as plt
import numpy as np

from skanomaly import CutPaste
from skanomaly.datasets import make_defects, make_textures
from skanomaly.metrics import image_roc_auc_score
from skanomaly.training import cut_paste, cut_paste_scar

images = make_textures(60, kind="weave", size=128, random_state=0)
good, test_good = images[:30], images[30:45]
bad, masks, kinds = make_defects(images[45:], random_state=1)

crops = good[:3, :64, :64].astype(np.float32) / 255
rng = np.random.default_rng(0)
rows = {"good": crops, "pasted": cut_paste(crops, rng)[0], "scar": cut_paste_scar(crops, rng)[0]}
figure, axes = plt.subplots(3, 3, figsize=(5, 5.2), layout="constrained")
for row, (name, views) in zip(axes, rows.items(), strict=True):
    for ax, view in zip(row, views, strict=True):
        ax.imshow(view)
        ax.set_axis_off()
    row[1].set_title(name, fontsize=10)

# %%
# A network a quarter as wide as ResNet-18 learns to tell the three apart. A few seconds are enough
# for this example; the default takes some minutes. ``accuracy_`` says how well it does.

detector = CutPaste("tiny", image_size=128, patch_size=32, n_iter=400).fit(good)
print({name: round(share, 2) for name, share in detector.accuracy_.items()})

figure, ax = plt.subplots(figsize=(5.5, 3), layout="constrained")
losses = detector.history_["training"]
ax.plot(25 * np.arange(1, len(losses) + 1), losses, ".-")
ax.axhline(np.log(3), color="gray", linestyle=":")
ax.set(xlabel="step", ylabel="loss (dotted: a guess)")

# %%
# The network's classes are not used any more: windows of an image are scored by how unusual their
# features are among those of good windows. A fabric looks alike everywhere, so that one Gaussian
# for all positions was chosen.

print("a Gaussian for each position:", detector.aligned_)
tested = np.concatenate([test_good, bad])
labels = np.r_[np.ones(len(test_good), int), -np.ones(len(bad), int)]
scores, maps = detector.score_samples_and_map(tested)
print(f"image AUROC {image_roc_auc_score(labels, -scores):.3f}")

shown = [0, 15, 16, 18]
names = ["good", *(kinds[i - 15] for i in shown[1:])]
figure, axes = plt.subplots(2, 4, figsize=(8, 4.2), layout="constrained")
for column, (i, name) in enumerate(zip(shown, names, strict=True)):
    axes[0, column].imshow(tested[i])
    axes[0, column].set_title(name, fontsize=10)
    axes[1, column].imshow(maps[i], vmin=maps[0].min(), vmax=maps[shown].max(), cmap="inferno")
for ax in axes.flat:
    ax.set_axis_off()
plt.show()

# sphinx_gallery_thumbnail_number = 3

"""
What is likely where: CFlow
===========================

Each place of an image has usual features. PaDiM keeps a Gaussian for each place; CFlow learns one
distribution for all of them, by a network that is told where it looks, and needs no Gaussian shape.
"""

# %%
# Drilled plates, which are alike place by place, and what may be wrong with them.

import matplotlib.pyplot as plt
import numpy as np

from skanomaly import CFlow, FilterBank
from skanomaly.datasets import make_defects, make_textures
from skanomaly.metrics import image_roc_auc_score, pixel_roc_auc_score

images = make_textures(70, kind="grid", size=128, random_state=0)
good, test_good = images[:40], images[40:55]
bad, masks, kinds = make_defects(images[55:], random_state=1)

features = FilterBank(image_size=128, random_state=0)
X = features.fit_transform(good)
detector = CFlow().fit(X)

# %%
# The mean log-likelihood of a feature, by epoch: of the images trained on, and of a tenth that was
# held out. Where the second one falls while the first one rises, the training was too long.

figure, ax = plt.subplots(figsize=(5.5, 3), layout="constrained")
for name, values in detector.history_.items():
    if name != "loss":
        ax.plot(values, label=name.partition("-")[2].replace("_", " "))
ax.set(xlabel="epoch", ylabel="log-likelihood of a feature")
ax.legend()

# %%
# A network that maps good features to a standard normal distribution has two things to say of new
# ones: how likely they are, and how far from the middle they come to lie. Which one tells defects
# better differs from set to set; no other training is needed to try both.

tested = features.transform(np.concatenate([test_good, bad]))
labels = np.r_[np.ones(len(test_good), int), -np.ones(len(bad), int)]
truth = [*[None] * len(test_good), *masks]
found = {}
for measure in ("likelihood", "latent"):
    scores, found[measure] = detector.set_params(measure=measure).score_samples_and_map(tested)
    print(
        f"{measure:<10} image AUROC {image_roc_auc_score(labels, -scores):.3f}, "
        f"pixel AUROC {pixel_roc_auc_score(truth, found[measure]):.3f}"
    )

# %%
# Score maps of a good plate and of three others.

shown = [0, 15, 16, 18]
names = ["good", *(kinds[i - 15] for i in shown[1:])]
figure, axes = plt.subplots(3, 4, figsize=(8, 6.2), layout="constrained")
for column, (i, name) in enumerate(zip(shown, names, strict=True)):
    axes[0, column].imshow(test_good[i] if i < 15 else bad[i - 15])
    axes[0, column].set_title(name, fontsize=10)
    for row, (measure, maps) in enumerate(found.items(), start=1):
        top = maps[shown].max()
        axes[row, column].imshow(maps[i], vmin=maps[0].min(), vmax=top, cmap="inferno")
        if column == 0:
            axes[row, 0].set_title(measure, fontsize=10)
for ax in axes.flat:
    ax.set_axis_off()
plt.show()

# sphinx_gallery_thumbnail_number = 2

"""What the tests of watch and serve share."""

import skanomaly
from skanomaly import FilterBank, PatchCore, Pipeline, load_folder
from skanomaly.model_selection import HeldOutThreshold


def quick_detector(root):
    """A detector file of the part in a folder, as fit writes it, fitted in a moment."""
    features = FilterBank(n_filters=4, image_size=64, random_state=0)
    pipe = Pipeline([("features", features), ("detector", PatchCore(random_state=0))])
    model = HeldOutThreshold(pipe, target_fpr=0.1).fit(load_folder(root).train.images)
    skanomaly.dump(model, root.parent / "part.skanomaly")
    return root.parent / "part.skanomaly"

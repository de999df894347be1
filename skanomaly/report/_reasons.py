"""What hot spots were compared with: records for Report.add."""

from skanomaly._images import check_images, titles
from skanomaly.pipeline import check_nearest_good, nearest_good


class Reasons:
    """Hot spots of images beside the good patches nearest to them.

    Parameters
    ----------
    estimator : fitted detector that keeps good patches, or a Pipeline or search around one
    good : images
        The X of its fit, in the same order.
    good_names : sequence of str or None
        What they are called; None: folder and file name, or their places.
    n_peaks : int
        Hot spots per image, at most.
    """

    def __init__(self, estimator, good, good_names, n_peaks):
        check_nearest_good(estimator)
        self.estimator, self.n_peaks = estimator, n_peaks
        self.good = check_images(good)
        self.names = titles(self.good, good_names)

    def of(self, images, chosen):
        """A list of records for each image; those not chosen (by place) have none."""
        answer = [[] for _ in images]
        if not chosen:
            return answer
        of_chosen = [images[i] for i in chosen]
        for spot in nearest_good(self.estimator, of_chosen, n_peaks=self.n_peaks):
            place = spot["good_image"]
            if place >= len(self.good):
                raise ValueError(
                    f"expected the good image of place {place}, got {len(self.good)} images as "
                    "good; pass the X of the estimator's fit, in the same order"
                )
            about = {"good": self.good[place], "good_name": self.names[place]}
            answer[chosen[spot["image"]]].append({**spot, **about})
        return answer

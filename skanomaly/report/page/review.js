"use strict";
/* Verdicts that a reader corrects, saved as the file that skanomaly update and evaluate --review read. */

const corrections = new Map(); // image -> "good" or "defect"
let isSaved = true;

/* Whether a verdict would correct the detector's, or the label. */
function corrects(image, verdict) {
  return verdict !== image.verdict || (image.label !== "" && verdict !== image.label);
}

/* Correct an image, or take the same correction back. */
function correct(image, verdict) {
  if (!image.file || !corrects(image, verdict)) return;
  if (corrections.get(image) === verdict) corrections.delete(image);
  else corrections.set(image, verdict);
  isSaved = false;
  showLabel(image.card);
  showReview(image);
}

/* The buttons of the image in full view, and the one that saves. */
function showReview(image) {
  $("#review").hidden = !image.file;
  for (const button of $$("#review button")) {
    button.disabled = !corrects(image, button.dataset.verdict);
    button.setAttribute("aria-pressed", corrections.get(image) === button.dataset.verdict);
  }
  const n = corrections.size;
  $("#save-review").disabled = n === 0;
  $("#save-review").textContent = n === 0 ? "Save" : `Save ${n} correction${n === 1 ? "" : "s"}`;
}

function saveReview() {
  const entries = IMAGES.filter((image) => corrections.has(image)).map((image) => ({
    image: image.file,
    verdict: corrections.get(image),
  }));
  const text = `${JSON.stringify(entries, null, 2)}\n`;
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  make("a", { href: url, download: "review.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000); // the browser may ask first where to save it
  isSaved = true;
}

function startReview() {
  for (const button of $$("#review button")) {
    button.addEventListener("click", () => correct(shown[place], button.dataset.verdict));
  }
  $("#save-review").addEventListener("click", saveReview);
  addEventListener("beforeunload", (event) => {
    if (!isSaved && corrections.size > 0) event.preventDefault(); // the browser asks
  });
}

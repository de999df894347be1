"use strict";
/* Keys, the theme, and the start of the page. */

const help = $("#help");
const systemTheme = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : systemTheme.matches;
}

function showTheme() {
  $("#theme").setAttribute("aria-pressed", isDark());
}

function isTyping(target) {
  return target.matches("input:not([type=range]), select, textarea");
}

function onGridKey(event) {
  const steps = { ArrowLeft: -1, ArrowRight: 1, k: -1, j: 1, ArrowUp: -nColumns(), ArrowDown: nColumns() };
  const isOnCard = event.target.closest("#images");
  const isArrow = event.key.startsWith("Arrow");
  if (event.key in steps && !(isArrow && event.target.matches("input"))) {
    const place = current + steps[event.key];
    // The first key focuses the current card, the next ones move from it.
    if (!isOnCard) focusCard(current);
    else if (place >= 0 && place < shown.length) focusCard(place);
    event.preventDefault();
  } else if (event.key === "m") {
    $("#maps").click();
  } else if (event.key === "/") {
    $("#search").focus();
    event.preventDefault();
  } else if (event.key === "Enter" && event.target === document.body && shown.length) {
    openViewer(current);
  }
}

const OPPOSITE = { good: "defect", defect: "good" };
const OUTLINES = { t: "truth", r: "roi" };

function onViewerKey(event) {
  const steps = { ArrowLeft: -1, ArrowRight: 1, k: -1, j: 1 };
  if (event.key in steps && !event.target.matches("input")) step(steps[event.key]);
  else if (event.key === "m") setMode(looks.mode === "image" ? looks.withMap : "image");
  else if (event.key === "b") setBoxes(!looks.hasBoxes);
  else if (event.key === "x") correct(shown[place], OPPOSITE[shown[place].verdict]);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  if (event.key === "?" && !help.open) help.showModal();
  else if (help.open) return;
  else if (event.key in OUTLINES) switchOutline(OUTLINES[event.key]);
  else if (viewer.open) onViewerKey(event);
  else if (IMAGES.length) onGridKey(event);
});

/* A file that was cut off while it was copied: report it instead of showing empty frames. */
addEventListener("unhandledrejection", (event) => {
  event.preventDefault(); // it is shown on the page instead of the console
  viewer?.close();
  $("#trouble").textContent = `${event.reason.message} Copy the file or write the report again.`;
  $("#trouble").hidden = false;
});

$("#help-open").addEventListener("click", () => help.showModal());
$("#theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
systemTheme.addEventListener("change", showTheme);
showTheme();

if (IMAGES.length) {
  for (const slider of $$(".opacity")) slider.addEventListener("input", () => setOpacity(slider.value));
  setOpacity(80);
  startGrid();
  startViewer();
  startReview();
}
document.documentElement.dataset.ready = "yes";

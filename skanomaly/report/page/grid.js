"use strict";
/* The overview: a card for each image, sorted and filtered, and filled when it comes near the window. */

const grid = $("#images");
const filters = { text: "", show: "all", low: -Infinity, high: Infinity };
const order = { by: DATA.first, isReversed: false };
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
let shown = []; // images that pass the filters, sorted
let current = 0; // index in shown of the card from which the keys move

const RANK = { defect: 0, good: 1, "": 2 };
const MISTAKES = { missed: 0, "false alarm": 1, "": 2 };
const COMPARE = {
  score: (a, b) => a.score - b.score,
  name: (a, b) => collator.compare(a.name, b.name),
  verdict: (a, b) => RANK[a.verdict] - RANK[b.verdict],
  label: (a, b) => RANK[a.label] - RANK[b.label],
  mistake: (a, b) => MISTAKES[mistake(a)] - MISTAKES[mistake(b)],
};
const SHOWS = {
  all: () => true,
  defect: (image) => image.verdict === "defect",
  good: (image) => image.verdict === "good",
  missed: (image) => mistake(image) === "missed",
  alarm: (image) => mistake(image) === "false alarm",
  corrected: (image) => corrections.has(image),
};

function isShown(image) {
  return (
    SHOWS[filters.show](image) &&
    image.score >= filters.low &&
    image.score <= filters.high &&
    filters.text.split(/\s+/).every((word) => image.name.toLowerCase().includes(word))
  );
}

function makeCard(image) {
  const aspect = image.width / image.height;
  const frame = make("span", { class: "frame" });
  frame.style.width = `${100 * Math.min(1, aspect)}%`;
  frame.style.height = `${100 * Math.min(1, 1 / aspect)}%`;
  const caption = make(
    "span",
    { class: "caption" },
    make("span", { class: "name", title: image.name }, image.name),
    make("span", { class: "verdict" }, image.verdict),
    make("span", { class: "label" }),
    make("span", { class: "score" }, scoreText(image.score)),
  );
  const words = [image.name, `verdict ${image.verdict}`, `score ${scoreText(image.score)}`];
  if (image.label) words.push(`label ${image.label}`);
  const button = make(
    "button",
    { type: "button", class: "open", tabindex: "-1", "aria-label": words.join(", ") },
    make("span", { class: "tile" }, frame),
    caption,
  );
  button.addEventListener("click", () => openViewer(shown.indexOf(image)));
  button.addEventListener("focus", () => setCurrent(shown.indexOf(image)));
  const card = make("li", { class: "card", "data-verdict": image.verdict }, button);
  card.image = image;
  showLabel(card);
  return card;
}

/* The last line of a card: a reader's correction, a mistake, or the label. */
function showLabel(card) {
  const { image } = card;
  const corrected = corrections.get(image);
  const wrong = corrected ? "" : mistake(image);
  const label = image.label ? `label: ${image.label}` : "";
  $(".label", card).textContent = corrected ? `corrected: ${corrected}` : wrong || label;
  for (const [name, value] of [["mistake", wrong], ["corrected", corrected]]) {
    if (value) card.dataset[name] = value;
    else delete card.dataset[name];
  }
}

/* Decode the images of a card; they then stay in memory. */
async function fillCard(card) {
  const { index } = card.image;
  const [thumb, heat] = await readWords(`small${index}`);
  $(".frame", card).append(
    make("img", { class: "thumb", alt: "", src: toObjectUrl(thumb, DATA.mime) }),
    make("img", { class: "heat", alt: "", src: toObjectUrl(heat, "image/png") }),
    makeSvg("svg", { ...viewBox(card.image), class: "outlines", "aria-hidden": true }, ...outlines(card.image)),
  );
}

const nearby = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      nearby.unobserve(target);
      fillCard(target);
    }
  },
  { rootMargin: "600px 0px" },
);

function setCurrent(place) {
  shown[current]?.card.firstChild.setAttribute("tabindex", "-1");
  current = Math.max(0, Math.min(place, shown.length - 1));
  shown[current]?.card.firstChild.setAttribute("tabindex", "0");
}

function focusCard(place) {
  setCurrent(place);
  const card = shown[current]?.card;
  card?.firstChild.focus({ preventScroll: true });
  card?.scrollIntoView({ block: "nearest" });
}

/* Sort, filter and show again; the current card stays current if it is still shown. */
function refresh() {
  const was = shown[current];
  was?.card.firstChild.setAttribute("tabindex", "-1");
  const sign = order.isReversed ? -1 : 1;
  const compare = COMPARE[order.by];
  shown = IMAGES.filter(isShown).sort(
    (a, b) => sign * compare(a, b) || COMPARE.score(a, b) || a.index - b.index,
  );
  grid.replaceChildren(...shown.map((image) => image.card));
  setCurrent(Math.max(0, shown.indexOf(was)));
  const n = IMAGES.length;
  const all = n === 1 ? "1 image" : `${n} images`;
  $("#status").textContent = shown.length === n ? all : `${shown.length} of ${all}`;
  $("#reset").hidden = shown.length === n;
  $("#nothing").hidden = shown.length > 0;
  for (const button of $$("#sort button")) {
    const isChosen = button.dataset.sort === order.by;
    button.setAttribute("aria-pressed", isChosen);
    button.dataset.direction = isChosen ? (order.isReversed ? "down" : "up") : "";
  }
  for (const bar of $$("#histogram .bar")) {
    const isOut = bar.dataset.high <= filters.low || bar.dataset.low > filters.high;
    bar.classList.toggle("out", isOut);
  }
}

function readFilters() {
  filters.text = $("#search").value.trim().toLowerCase();
  filters.show = $("#show").value;
  filters.low = $("#low").value === "" ? -Infinity : Number($("#low").value);
  filters.high = $("#high").value === "" ? Infinity : Number($("#high").value);
  refresh();
}

function setMaps(areShown) {
  document.documentElement.classList.toggle("maps", areShown);
  $("#maps").setAttribute("aria-pressed", areShown);
}

/* Show or hide one kind of outline, on cards and in full view. */
function setOutline(kind, isShown) {
  document.documentElement.classList.toggle(`no-${kind}`, !isShown);
  for (const button of $$(`[data-outline="${kind}"]`)) button.setAttribute("aria-pressed", isShown);
}

function switchOutline(kind) {
  setOutline(kind, document.documentElement.classList.contains(`no-${kind}`));
}

function setOpacity(percent) {
  document.documentElement.style.setProperty("--opacity", percent / 100);
  for (const slider of $$(".opacity")) slider.value = percent;
}

function nColumns() {
  return getComputedStyle(grid).gridTemplateColumns.split(" ").length;
}

function startGrid() {
  for (const image of IMAGES) {
    image.card = makeCard(image);
    nearby.observe(image.card);
  }
  for (const id of ["search", "show", "low", "high"]) $(`#${id}`).addEventListener("input", readFilters);
  for (const button of $$("#sort button")) {
    button.addEventListener("click", () => {
      order.isReversed = order.by === button.dataset.sort && !order.isReversed;
      order.by = button.dataset.sort;
      refresh();
    });
  }
  for (const button of $$("#view button")) {
    button.addEventListener("click", () => {
      grid.dataset.view = button.dataset.view;
      for (const other of $$("#view button")) other.setAttribute("aria-pressed", other === button);
    });
  }
  for (const bar of $$("#histogram .bar")) {
    bar.addEventListener("click", () => {
      const grain = 10 ** (DECIMALS + 1); // rounded outward, so that no image of the bar is lost
      $("#low").value = Math.floor(bar.dataset.low * grain) / grain;
      $("#high").value = Math.ceil(bar.dataset.high * grain) / grain;
      readFilters();
    });
  }
  $("#reset").addEventListener("click", () => {
    for (const id of ["search", "low", "high"]) $(`#${id}`).value = "";
    $("#show").value = "all";
    readFilters();
  });
  for (const button of $$("[data-outline]")) {
    button.addEventListener("click", () => switchOutline(button.dataset.outline));
  }
  $("#maps").addEventListener("click", () => setMaps(!document.documentElement.classList.contains("maps")));
  refresh();
}

"use strict";
/* The overview: a card for each picture, sorted, filtered, and filled when it comes into sight. */

const grid = $("#pictures");
const filters = { text: "", show: "all", low: -Infinity, high: Infinity };
const order = { by: "score", isReversed: false };
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
let shown = []; // pictures that pass the filters, in their order
let current = 0; // place in shown of the card that the keys move from

const RANK = { defect: 0, good: 1, "": 2 };
const COMPARE = {
  score: (a, b) => a.score - b.score,
  name: (a, b) => collator.compare(a.name, b.name),
  verdict: (a, b) => RANK[a.verdict] - RANK[b.verdict],
  truth: (a, b) => RANK[a.truth] - RANK[b.truth],
};
const SHOWS = {
  all: () => true,
  defect: (picture) => picture.verdict === "defect",
  good: (picture) => picture.verdict === "good",
  missed: (picture) => mistake(picture) === "missed",
  alarm: (picture) => mistake(picture) === "false alarm",
};

function isShown(picture) {
  return (
    SHOWS[filters.show](picture) &&
    picture.score >= filters.low &&
    picture.score <= filters.high &&
    filters.text.split(/\s+/).every((word) => picture.name.toLowerCase().includes(word))
  );
}

function makeCard(picture) {
  const wide = picture.width / picture.height;
  const frame = make("span", { class: "frame" });
  frame.style.width = `${100 * Math.min(1, wide)}%`;
  frame.style.height = `${100 * Math.min(1, 1 / wide)}%`;
  const wrong = mistake(picture);
  const caption = make(
    "span",
    { class: "caption" },
    make("span", { class: "name", title: picture.name }, picture.name),
    make("span", { class: "verdict" }, picture.verdict),
    make("span", { class: "truth" }, wrong || (picture.truth ? `truth: ${picture.truth}` : "")),
    make("span", { class: "score" }, scoreText(picture.score)),
  );
  const words = [picture.name, `verdict ${picture.verdict}`, `score ${scoreText(picture.score)}`];
  if (picture.truth) words.push(`truth ${picture.truth}`);
  const button = make(
    "button",
    { type: "button", class: "open", tabindex: "-1", "aria-label": words.join(", ") },
    make("span", { class: "tile" }, frame),
    caption,
  );
  button.addEventListener("click", () => openViewer(shown.indexOf(picture)));
  button.addEventListener("focus", () => setCurrent(shown.indexOf(picture)));
  const card = make("li", { class: "card", "data-verdict": picture.verdict }, button);
  if (wrong) card.dataset.mistake = wrong;
  card.picture = picture;
  return card;
}

/* Images are made when their card comes near the window, and then stay. */
async function fillCard(card) {
  const { index } = card.picture;
  const [thumb, heat] = await wordsOf(`small${index}`);
  $(".frame", card).append(
    make("img", { class: "thumb", alt: "", src: addressOf(thumb, DATA.mime) }),
    make("img", { class: "heat", alt: "", src: addressOf(heat, "image/png") }),
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

/* Sort, filter and show anew; the card that was current stays it where it is still there. */
function refresh() {
  const was = shown[current];
  was?.card.firstChild.setAttribute("tabindex", "-1");
  const sign = order.isReversed ? -1 : 1;
  const compare = COMPARE[order.by];
  shown = PICTURES.filter(isShown).sort(
    (a, b) => sign * compare(a, b) || COMPARE.score(a, b) || a.index - b.index,
  );
  grid.replaceChildren(...shown.map((picture) => picture.card));
  setCurrent(Math.max(0, shown.indexOf(was)));
  const n = PICTURES.length;
  const all = n === 1 ? "1 picture" : `${n} pictures`;
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

function setOpacity(percent) {
  document.documentElement.style.setProperty("--opacity", percent / 100);
  for (const slider of $$(".opacity")) slider.value = percent;
}

function nColumns() {
  return getComputedStyle(grid).gridTemplateColumns.split(" ").length;
}

function startGrid() {
  for (const picture of PICTURES) {
    picture.card = makeCard(picture);
    nearby.observe(picture.card);
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
      const grain = 10 ** (DECIMALS + 1); // rounded outwards: no picture of the bar is lost
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
  $("#maps").addEventListener("click", () => setMaps(!document.documentElement.classList.contains("maps")));
  refresh();
}

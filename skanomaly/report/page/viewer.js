"use strict";
/* The full view of an image: its heat map, its regions and the good patches nearest to its hot spots. */

const viewer = $("#viewer");
const looks = { mode: "overlay", withMap: "overlay", hasBoxes: true };
let place = 0; // index of the open image in shown
let urls = []; // object URLs of the open image, revoked when another one is opened

function openViewer(which) {
  place = which;
  if (!viewer.open) viewer.showModal();
  showImage();
}

function step(by) {
  if (!shown[place + by]) return;
  place += by;
  showImage();
}

function revokeUrls() {
  for (const url of urls) URL.revokeObjectURL(url);
  urls = [];
}

async function showImage() {
  const image = shown[place];
  $("#viewer-name").textContent = image.name;
  const wrong = mistake(image);
  $("#viewer-verdict").replaceChildren(
    make("span", { class: "verdict", "data-verdict": image.verdict }, image.verdict),
    ` score ${scoreText(image.score)}`,
    wrong ? ` · ${wrong}` : image.label ? ` · label: ${image.label}` : "",
  );
  showReview(image);
  $("#place").textContent = `${place + 1} / ${shown.length}`;
  $("#previous").disabled = place === 0;
  $("#next").disabled = place === shown.length - 1;
  $("#stage").setAttribute("aria-busy", "true");
  const blocks = [readWords(`small${image.index}`), readWords(`large${image.index}`)];
  const [[, heat], [full, ...crops]] = await Promise.all(blocks);
  if (image !== shown[place]) return; // another image has been opened meanwhile
  revokeUrls();
  const words = [full, ...crops];
  urls = [...words.map((word) => toObjectUrl(word, DATA.mime)), toObjectUrl(heat, "image/png")];
  drawStage(image, urls[0], urls.at(-1));
  drawFacts(image, urls.slice(1, -1));
  $("#stage").setAttribute("aria-busy", "false");
}

function makeSvgImage(url, width, height, name) {
  return makeSvg("image", { href: url, width, height, preserveAspectRatio: "none", class: name });
}

function makeBox([top, left, bottom, right], name) {
  const box = { x: left, y: top, width: right - left, height: bottom - top };
  return makeSvg("g", { class: name }, makeSvg("rect", { ...box, class: "halo" }), makeSvg("rect", box));
}

/* The stage always has two panels; the style sheet shows one of them or both. */
function drawStage(image, full, heat) {
  const { width, height, regions } = image;
  const panel = (name, label, ...layers) =>
    makeSvg(
      "svg",
      { ...viewBox(image), class: name, role: "img", "aria-label": label },
      makeSvgImage(full, width, height, "full"),
      ...layers,
      ...outlines(image),
      makeSvg("g", { class: "boxes" }, ...regions.map((region, i) => markRegion(image, region, i))),
    );
  $("#stage").replaceChildren(
    panel("plain-panel", `${image.name}, image`),
    panel("heat-panel", `${image.name}, under its heat map`, makeSvgImage(heat, width, height, "heat")),
  );
}

function markRegion(image, region, i) {
  const size = Math.max(image.width, image.height) / 32;
  const [top, left, bottom] = region.box;
  const y = top > 1.3 * size ? top - 0.35 * size : Math.min(bottom + size, image.height);
  const mark = makeBox(region.box, "region");
  mark.dataset.region = i;
  if (i < 9) mark.append(makeSvg("text", { x: left, y, "font-size": size }, String(i + 1)));
  return mark;
}

function drawFacts(image, crops) {
  const parts = [];
  if (image.regions.length) parts.push(make("h3", {}, "Regions, in pixels"), makeRegionTable(image));
  const nLeft = image.n_regions - image.regions.length;
  if (nLeft > 0) parts.push(make("p", { class: "muted more" }, `and ${nLeft} more with lower peaks`));
  if (image.spots.length) parts.push(make("h3", {}, "Nearest good patches"));
  image.spots.forEach((spot, i) => parts.push(makeSpot(spot, crops[2 * i], crops[2 * i + 1])));
  parts.push(make("p", { class: "muted" }, `${image.width} × ${image.height} pixels`));
  $("#facts").replaceChildren(...parts);
}

function makeRegionTable(image) {
  const head = ["", "x", "y", "Area", "Peak"].map((text) => make("th", { scope: "col" }, text));
  head[0].append(make("span", { class: "unseen" }, "Region"));
  const rows = image.regions.map((region, i) => {
    const [top, left, bottom, right] = region.box;
    const cells = [`${left}–${right - 1}`, `${top}–${bottom - 1}`, region.area, numberText(region.peak)];
    const row = make(
      "tr",
      {},
      make("th", { scope: "row" }, String(i + 1)),
      ...cells.map((cell) => make("td", {}, String(cell))),
    );
    for (const [event, isOn] of [["mouseenter", true], ["mouseleave", false]]) {
      row.addEventListener(event, () => {
        for (const mark of $$(`[data-region="${i}"]`)) mark.classList.toggle("chosen", isOn);
      });
    }
    return row;
  });
  return make(
    "table",
    { class: "regions" },
    make("caption", { class: "unseen" }, "Regions of the score map above the threshold"),
    make("thead", {}, make("tr", {}, ...head)),
    make("tbody", {}, ...rows),
  );
}

function makeSpot(spot, here, good) {
  return make(
    "div",
    { class: "spot" },
    makeCrop(spot.here, here, "Hot spot", `score ${numberText(spot.peak)}`, "here"),
    makeCrop(spot.good, good, "Nearest good patch", `in image ${spot.name}, distance ${numberText(spot.distance)}`, "good"),
  );
}

function makeCrop([height, width, ...box], url, title, text, name) {
  return make(
    "figure",
    {},
    makeSvg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}, ${text}` },
      makeSvgImage(url, width, height, "full"),
      makeBox(box, name),
    ),
    make("figcaption", {}, make("strong", {}, title), make("span", { title: text }, text)),
  );
}

function setMode(mode) {
  looks.mode = mode;
  if (mode !== "image") looks.withMap = mode;
  viewer.dataset.mode = mode;
  for (const button of $$("#mode button")) {
    button.setAttribute("aria-pressed", button.dataset.mode === mode);
  }
}

function setBoxes(areShown) {
  looks.hasBoxes = areShown;
  viewer.classList.toggle("boxless", !areShown);
  $("#boxes").setAttribute("aria-pressed", areShown);
}

function startViewer() {
  for (const button of $$("#mode button")) {
    button.addEventListener("click", () => setMode(button.dataset.mode));
  }
  $("#boxes").addEventListener("click", () => setBoxes(!looks.hasBoxes));
  $("#previous").addEventListener("click", () => step(-1));
  $("#next").addEventListener("click", () => step(1));
  $("#close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", () => {
    revokeUrls();
    $("#stage").replaceChildren();
    focusCard(place); // the browser would focus the card that was opened first
  });
  setMode(looks.mode);
  setBoxes(true);
}

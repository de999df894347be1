"use strict";
/* One picture in full: with its score map, its regions, and the good patches it is compared with. */

const viewer = $("#viewer");
const looks = { mode: "overlay", withMap: "overlay", hasBoxes: true };
let place = 0; // in shown, of the open picture
let addresses = []; // of the open picture's images; given back when another is opened

function openViewer(which) {
  place = which;
  if (!viewer.open) viewer.showModal();
  showPicture();
}

function step(by) {
  if (!shown[place + by]) return;
  place += by;
  showPicture();
}

function forget() {
  for (const address of addresses) URL.revokeObjectURL(address);
  addresses = [];
}

async function showPicture() {
  const picture = shown[place];
  $("#viewer-name").textContent = picture.name;
  const wrong = mistake(picture);
  $("#viewer-verdict").replaceChildren(
    make("span", { class: "verdict", "data-verdict": picture.verdict }, picture.verdict),
    ` score ${scoreText(picture.score)}`,
    wrong ? ` · ${wrong}` : picture.truth ? ` · truth: ${picture.truth}` : "",
  );
  $("#place").textContent = `${place + 1} / ${shown.length}`;
  $("#previous").disabled = place === 0;
  $("#next").disabled = place === shown.length - 1;
  $("#stage").setAttribute("aria-busy", "true");
  const blocks = [wordsOf(`small${picture.index}`), wordsOf(`large${picture.index}`)];
  const [[, heat], [full, ...crops]] = await Promise.all(blocks);
  if (picture !== shown[place]) return; // the next one was asked for meanwhile
  forget();
  const words = [full, ...crops];
  addresses = [...words.map((word) => addressOf(word, DATA.mime)), addressOf(heat, "image/png")];
  drawStage(picture, addresses[0], addresses.at(-1));
  drawFacts(picture, addresses.slice(1, -1));
  $("#stage").setAttribute("aria-busy", "false");
}

function imageOf(address, width, height, name) {
  return makeSvg("image", { href: address, width, height, preserveAspectRatio: "none", class: name });
}

function boxOf([top, left, bottom, right], name) {
  const box = { x: left, y: top, width: right - left, height: bottom - top };
  return makeSvg("g", { class: name }, makeSvg("rect", { ...box, class: "halo" }), makeSvg("rect", box));
}

/* Two panels lie in the stage; which are seen is a matter of style. */
function drawStage(picture, full, heat) {
  const { width, height, regions } = picture;
  const panel = (name, label, ...layers) =>
    makeSvg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, class: name, role: "img", "aria-label": label },
      imageOf(full, width, height, "full"),
      ...layers,
      makeSvg("g", { class: "boxes" }, ...regions.map((region, i) => regionMark(picture, region, i))),
    );
  $("#stage").replaceChildren(
    panel("plain-panel", `${picture.name}, the picture`),
    panel("heat-panel", `${picture.name}, under its heat map`, imageOf(heat, width, height, "heat")),
  );
}

function regionMark(picture, region, i) {
  const size = Math.max(picture.width, picture.height) / 32;
  const [top, left, bottom] = region.box;
  const y = top > 1.3 * size ? top - 0.35 * size : Math.min(bottom + size, picture.height);
  const mark = boxOf(region.box, "region");
  mark.dataset.region = i;
  if (i < 9) mark.append(makeSvg("text", { x: left, y, "font-size": size }, String(i + 1)));
  return mark;
}

function drawFacts(picture, crops) {
  const parts = [];
  if (picture.regions.length) parts.push(make("h3", {}, "Where, in pixels"), regionTable(picture));
  const nLeft = picture.n_regions - picture.regions.length;
  if (nLeft > 0) parts.push(make("p", { class: "muted more" }, `and ${nLeft} more with lower peaks`));
  if (picture.spots.length) parts.push(make("h3", {}, "Compared with"));
  picture.spots.forEach((spot, i) => parts.push(spotOf(spot, crops[2 * i], crops[2 * i + 1])));
  parts.push(make("p", { class: "muted" }, `${picture.width} × ${picture.height} pixels`));
  $("#facts").replaceChildren(...parts);
}

function regionTable(picture) {
  const head = ["", "x", "y", "Area", "Peak"].map((text) => make("th", { scope: "col" }, text));
  head[0].append(make("span", { class: "unseen" }, "Region"));
  const rows = picture.regions.map((region, i) => {
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
    make("caption", { class: "unseen" }, "Regions of the heat map above its threshold"),
    make("thead", {}, make("tr", {}, ...head)),
    make("tbody", {}, ...rows),
  );
}

function spotOf(spot, here, good) {
  return make(
    "div",
    { class: "spot" },
    cropOf(spot.here, here, "This spot", `score ${numberText(spot.peak)}`, "here"),
    cropOf(spot.good, good, "Nearest good piece", `in picture ${spot.name}, distance ${numberText(spot.distance)}`, "good"),
  );
}

function cropOf([height, width, ...box], address, title, text, name) {
  return make(
    "figure",
    {},
    makeSvg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}, ${text}` },
      imageOf(address, width, height, "full"),
      boxOf(box, name),
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
    forget();
    $("#stage").replaceChildren();
    focusCard(place); // the browser goes back to the card that was opened first
  });
  setMode(looks.mode);
  setBoxes(true);
}

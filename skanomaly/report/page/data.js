"use strict";
/* The records of the images, and their encoded bytes, which come further below in this file. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const IMAGES = DATA.images.map((image, index) => ({
  ...image,
  index,
  verdict: image.score < 0 ? "defect" : "good",
  label: { "1": "good", "-1": "defect" }[image.label] ?? "",
}));

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/* A new element. Names of files are only set as text, never as markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function viewBox({ width, height }) {
  return { viewBox: `0 0 ${width} ${height}` };
}

/* The outlines of an image's ground truth and region of interest, as far as there are such. */
function outlines(image) {
  return ["roi", "truth"]
    .filter((kind) => image[kind] !== null)
    .map((kind) => {
      const d = DATA.outlines[image[kind]];
      return makeSvg("g", { class: kind }, makeSvg("path", { d, class: "halo" }), makeSvg("path", { d }));
    });
}

const END = "."; // the last word of each block

/* Base64 words of a block of data; waits for the block while the page is still loading. */
async function readWords(id) {
  for (;;) {
    const block = document.getElementById(id);
    const isLoading = document.readyState === "loading";
    if (block?.nextElementSibling || !isLoading) {
      const words = block ? block.textContent.split(" ") : [];
      if (words.pop() === END) return words;
      throw new Error("This file is not complete: images at its end are missing.");
    }
    await new Promise((done) => setTimeout(done, 30));
  }
}

/* Object URL of the image in a base64 word; the caller revokes it. */
function toObjectUrl(word, mime) {
  const bytes = Uint8Array.from(atob(word), (letter) => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: mime }));
}

/* A score with its sign; the number of decimals depends on the median score of the report. */
const SIZES = IMAGES.map(({ score }) => Math.abs(score)).sort((a, b) => a - b);
const TYPICAL = SIZES[Math.floor(SIZES.length / 2)] || 1;
const DECIMALS = Math.min(8, Math.max(0, 2 - Math.floor(Math.log10(TYPICAL))));
function scoreText(score) {
  const text = Math.abs(score).toFixed(DECIMALS);
  return (score < 0 ? "−" : "+") + text;
}

function numberText(number) {
  return String(Number(number.toPrecision(4))).replace("-", "−");
}

/* "missed" or "false alarm" if the verdict is not the label, else nothing. */
function mistake(image) {
  if (!image.label || image.label === image.verdict) return "";
  return image.label === "defect" ? "missed" : "false alarm";
}

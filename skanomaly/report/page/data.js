"use strict";
/* What the page is about: the pictures, and the bytes of their images further below in this file. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const PICTURES = DATA.pictures.map((picture, index) => ({
  ...picture,
  index,
  verdict: picture.score < 0 ? "defect" : "good",
  truth: { "1": "good", "-1": "defect" }[picture.label] ?? "",
}));

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/* A new element; text is only ever set as text, whatever a file is called. */
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

const END = "."; // the last word of every block

/* Base64 words of a block of data. While the page still loads it may not be there yet. */
async function wordsOf(id) {
  for (;;) {
    const block = document.getElementById(id);
    const isLoading = document.readyState === "loading";
    if (block?.nextElementSibling || !isLoading) {
      const words = block ? block.textContent.split(" ") : [];
      if (words.pop() === END) return words;
      throw new Error("This file is not complete: pictures are missing at its end.");
    }
    await new Promise((done) => setTimeout(done, 30));
  }
}

/* Address of the image in a base64 word; whoever asks for it gives it back. */
function addressOf(word, mime) {
  const bytes = Uint8Array.from(atob(word), (letter) => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: mime }));
}

/* A score with its sign, with as many decimals as a typical one of this report needs. */
const SIZES = PICTURES.map(({ score }) => Math.abs(score)).sort((a, b) => a - b);
const TYPICAL = SIZES[Math.floor(SIZES.length / 2)] || 1;
const DECIMALS = Math.min(8, Math.max(0, 2 - Math.floor(Math.log10(TYPICAL))));
function scoreText(score) {
  const text = Math.abs(score).toFixed(DECIMALS);
  return (score < 0 ? "−" : "+") + text;
}

function numberText(number) {
  return String(Number(number.toPrecision(4))).replace("-", "−");
}

/* "missed" and "false alarm" where verdict and truth disagree. */
function mistake(picture) {
  if (!picture.truth || picture.truth === picture.verdict) return "";
  return picture.truth === "defect" ? "missed" : "false alarm";
}

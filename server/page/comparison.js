// Two pipelines on one query, side by side.

import { drawBadge, hitsIn, notes } from "./answers.js";
import { element, find, milliseconds } from "./dom.js";
import { card, scoreRanges } from "./hits.js";

const section = find("comparison");
const sides = [...section.querySelectorAll(".side")];
const switches = [...section.querySelectorAll(".switch button")];

// On a narrow screen one list is shown at a time.
export function showSide(side) {
  section.dataset.side = side;
  switches.forEach((button, position) => button.setAttribute("aria-pressed", String(position === side)));
}

switches.forEach((button, position) => button.addEventListener("click", () => showSide(position)));

export function clearComparison() {
  section.hidden = true;
  for (const side of sides) side.querySelector("ol").replaceChildren();
}

// answers: of both pipelines; options(side, position): those of a card
export function showComparison(answers, options) {
  const results = answers.map((answer) => answer.results[0]);
  const places = results.map((result) => new Map(result.hits.map((hit, position) => [hit.id, position])));
  results.forEach((result, side) => {
    const name = answers[side].pipeline;
    const other = answers[1 - side].pipeline;
    switches[side].textContent = name;
    drawHead(sides[side], name, result);
    const ranges = scoreRanges(result.hits);
    const cards = result.hits.map((hit, position) => {
      const place = places[1 - side].get(hit.id);
      return card(hit, position, {
        ...options(side, position), ranges, asked: answers[side].stages, other: elsewhere(position, place, other, results[1 - side]),
      });
    });
    cards.forEach((made, position) => made.classList.toggle("alone", !places[1 - side].has(result.hits[position].id)));
    sides[side].querySelector("ol").replaceChildren(...cards);
    sides[side].querySelector("ol").setAttribute("aria-label", `Hits of ${name}`);
    if (!cards.length) sides[side].querySelector("ol").append(element("li", "note", "Nothing found."));
  });
  find("overlap").textContent = overlap(answers, results, places);
  find("share-comparison").textContent = "Copy link";
  section.hidden = false;
}

function drawHead(side, name, result) {
  const badge = element("span");
  drawBadge(badge, result.status);
  const list = element("ul", "notes");
  list.append(...notes(result).map((text) => element("li", "", text)));
  side.querySelector("header").replaceChildren(element("h2", "", name), badge, element("span", "note", hitsIn(result)), list);
}

function elsewhere(position, place, other, result) {
  if (!result.hits.length) return "";
  if (place === undefined) return `not in the first ${result.hits.length} of ${other}`;
  const moved = position - place;
  if (moved === 0) return `same place in ${other}`;
  return `${moved > 0 ? "▲" : "▼"} ${Math.abs(moved)}: #${place + 1} in ${other}`;
}

function overlap(answers, results, places) {
  const shared = [...places[0].keys()].filter((id) => places[1].has(id)).length;
  const longest = Math.max(results[0].hits.length, results[1].hits.length);
  if (!longest) return "Neither list has a document.";
  const same = results[0].hits[0]?.id === results[1].hits[0]?.id ? "the best one is the same" : "the best ones differ";
  const times = answers.map((answer, side) => `${answer.pipeline} took ${milliseconds(results[side].timings.total)}`);
  return `${shared} of ${longest} documents stand in both lists; ${same}. ${times.join(", ")}.`;
}

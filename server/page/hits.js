// One document of an answer: its text, the scores of its stages, and where they come from.

import { breakable, element, find, score, table } from "./dom.js";

export const STAGES = ["bm25", "sparse", "dense", "fusion", "rerank"];
export const STAGE_NAMES = { bm25: "BM25", sparse: "Sparse", dense: "Dense", fusion: "Fusion", rerank: "Rerank" };
const EXCERPT = 340;

export function scoreRanges(hits) {
  const ranges = {};
  for (const { scores } of hits) {
    for (const [stage, value] of Object.entries(scores)) {
      const range = (ranges[stage] ??= [value, value]);
      range[0] = Math.min(range[0], value);
      range[1] = Math.max(range[1], value);
    }
  }
  return ranges;
}

// options: ranges, asked (stages), fields, narrow(name, value), explain() -> Promise of a hit, other (a text or none)
export function card(hit, position, options) {
  const made = find("card").content.firstElementChild.cloneNode(true);
  const part = (selector) => made.querySelector(selector);
  const title = hit.title || hit.id;
  part(".rank").textContent = position + 1;
  part("h2").append(...breakable(title));
  const names = [hit.id, hit.chunk].filter((name) => name && name !== title);
  part(".id").append(...breakable(names.join(" · ")));
  if (typeof hit.relevance === "number") {
    part(".relevance").textContent = `${Math.round(100 * hit.relevance)} %`;
    part(".relevance").title = "The probability that this document is relevant, by the calibration of the pipeline.";
  }
  fillText(part(".text"), hit, false);
  part(".tags").append(...tags(hit.metadata ?? {}, options));
  part(".other").textContent = options.other ?? "";
  part(".open-button").setAttribute("aria-label", `Open ${title}`);
  part(".explain-button").setAttribute("aria-label", `Explain the scores of ${title}`);
  made.toggle = () => open(made, hit, !made.classList.contains("open"));
  made.explain = () => explain(made, hit, options);
  part(".text").addEventListener("click", () => open(made, hit, true));
  part(".open-button").addEventListener("click", made.toggle);
  part(".explain-button").addEventListener("click", made.explain);
  const deciding = STAGES.findLast((stage) => stage in hit.scores);
  for (const stage of STAGES) {
    if (stage in hit.scores || (options.asked.includes(stage) && stage in options.ranges)) {
      part(".bars").append(scoreBar(stage, hit.scores[stage], options.ranges[stage], stage === deciding));
    }
  }
  return made;
}

function scoreBar(stage, value, [low, high], deciding) {
  const bar = element("div", `bar ${stage}`);
  const rail = element("span");
  if (value === undefined) {
    bar.classList.add("absent");
  } else {
    const fill = element("i");
    bar.classList.toggle("deciding", deciding);
    // The lowest of the answer keeps a visible piece, so that it differs from a score that is absent.
    fill.style.width = `${8 + 92 * (high > low ? (value - low) / (high - low) : 1)}%`;
    rail.append(fill);
  }
  const name = element("b", "", STAGE_NAMES[stage]);
  name.style.fontWeight = "inherit";
  bar.append(name, element("output", "", value === undefined ? "not seen" : score(value)), rail);
  return bar;
}

function tags(metadata, { fields, narrow }) {
  const made = [];
  for (const [name, value] of Object.entries(metadata)) {
    if (!["string", "number", "boolean"].includes(typeof value) || String(value).length > 200) continue;
    const filterable = name in fields;
    const tag = element(filterable ? "button" : "span", "tag", `${name}: ${value}`);
    if (filterable) {
      tag.type = "button";
      tag.title = "Only such documents";
      tag.addEventListener("click", () => narrow(name, value));
    }
    made.push(tag);
    if (made.length === 8) break;
  }
  return made;
}

function open(made, hit, wanted) {
  made.classList.toggle("open", wanted);
  const button = made.querySelector(".open-button");
  button.setAttribute("aria-expanded", String(wanted));
  button.textContent = wanted ? "Close" : "Open";
  fillText(made.querySelector(".text"), hit, wanted);
}

// Highlights count Unicode code points, JavaScript's strings UTF-16 units.
function sliceable(text) {
  if (!/[\ud800-\udfff]/.test(text)) return { length: text.length, slice: (start, end) => text.slice(start, end) };
  const points = Array.from(text);
  return { length: points.length, slice: (start, end) => points.slice(start, end).join("") };
}

function fillText(target, hit, whole) {
  const text = sliceable(hit.text ?? "");
  const [start, end] = whole ? [0, text.length] : excerpt(text.length, hit.highlights);
  const pieces = [];
  if (start > 0) pieces.push("… ");
  let reached = start;
  for (const [from, to] of hit.highlights) {
    if (from < reached || to > end) continue;
    pieces.push(text.slice(reached, from), element("mark", "", text.slice(from, to)));
    reached = to;
  }
  pieces.push(text.slice(reached, end));
  if (end < text.length) pieces.push(" …");
  target.replaceChildren(...pieces);
}

function excerpt(length, highlights) {
  if (length <= EXCERPT) return [0, length];
  let best = 0;
  let most = 0;
  let last = 0;
  // The window with the most marks; both ends only move forward.
  for (let first = 0; first < highlights.length; first++) {
    while (last < highlights.length && highlights[last][1] <= highlights[first][0] + EXCERPT - 60) last++;
    if (last - first > most) [most, best] = [last - first, highlights[first][0]];
  }
  const start = best < 120 ? 0 : Math.min(best - 60, length - EXCERPT);
  return [start, Math.min(length, start + EXCERPT)];
}

// Explanations are asked for one by one: they cost a search each.
async function explain(made, hit, options) {
  const panel = made.querySelector(".explanation");
  const button = made.querySelector(".explain-button");
  const wanted = panel.hidden;
  panel.hidden = !wanted;
  button.setAttribute("aria-expanded", String(wanted));
  if (!wanted || panel.dataset.filled) return;
  panel.replaceChildren(element("p", "note", "Asking …"));
  try {
    const found = await options.explain();
    panel.replaceChildren(...explained(hit, found, options.asked));
    panel.dataset.filled = "yes";
  } catch (error) {
    panel.replaceChildren(element("p", "problem", error.message));
  }
}

function explained(hit, found, asked) {
  if (found?.id !== hit.id) {
    return [element("p", "note", "The index has changed since this answer; search again.")];
  }
  const { ranks, terms } = found.explanation;
  const stages = STAGES.filter((stage) => stage in found.scores);
  const rows = stages.map((stage) => {
    const name = element("span", `dot ${stage}`, STAGE_NAMES[stage]);
    return [name, ranks[stage] ? `#${ranks[stage]}` : "–", score(found.scores[stage])];
  });
  const made = [element("h3", "", "Stages"), table(["Stage", "Place", "Score"], rows)];
  if (asked.includes("bm25")) made.push(element("h3", "", "Terms in BM25"), termTable(terms, "bm25" in found.scores));
  return made;
}

function termTable(terms, scored) {
  if (!terms.length) {
    const reason = scored ? "The query has more to it than terms." : "No term of the query stands in this document.";
    return element("p", "note", reason);
  }
  const most = Math.max(...terms.map((term) => term.score)) || 1;
  const rows = terms.map((term) => {
    const bar = element("span", "term-bar bm25");
    const fill = element("i");
    fill.style.width = `${Math.max(2, (100 * term.score) / most)}%`;
    bar.append(fill);
    const field = term.field === "contents" ? [] : [element("small", "", ` in ${term.field}`)];
    return [[element("code", "", term.term), ...field], `${term.frequency} ×`, score(term.idf), [score(term.score), bar]];
  });
  return table(["Term", "Occurs", "Rarity", "Adds"], rows);
}

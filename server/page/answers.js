// What an answer says of itself: how far it can be trusted, how long each stage took.

import { element, find, milliseconds } from "./dom.js";
import { STAGE_NAMES } from "./hits.js";

// In the order in which the engine runs them.
const TIMED = ["filter", "encode", "dense", "sparse", "bm25", "fusion", "facets", "rerank", "documents", "highlight", "explain"];

const SENTENCES = {
  no_terms: "No word of the query occurs in the index, so BM25 found nothing.",
  dense_failed: "Dense retrieval failed and was left out.",
  sparse_failed: "Learned sparse retrieval failed and was left out.",
  rerank_failed: "The reranker failed and was left out.",
  rerank_prompt_too_long: "The query is longer than the language model reads, so reranking was left out.",
  rerank_timeout: "Reranking ran out of time and was left out.",
  rerank_constant_or_nan: "The reranker gave no usable scores and was left out.",
};
const BADGES = {
  exact: "Every document that the filter allows was looked at.",
  approximate: "An approximate vector index chose the candidates.",
  truncated: "The query was longer than what was read of it.",
  degraded: "A stage was left out.",
};

export function drawBadge(badge, status) {
  badge.textContent = status;
  badge.className = `badge ${status}`;
  badge.title = BADGES[status] ?? "";
}

export function hitsIn(result) {
  const documents = result.hits.length === 1 ? "1 hit" : `${result.hits.length} hits`;
  return `${documents} in ${milliseconds(result.timings.total)}`;
}

export function notes(result) {
  const found = result.truncated ? [BADGES.truncated] : [];
  return [...found, ...[...result.degraded, ...result.warnings].map(sentence)];
}

function sentence(name) {
  const cut = /^rerank_truncated_documents:(\d+)$/.exec(name);
  if (cut) return `${cut[1]} documents were longer than the reranker reads.`;
  return SENTENCES[name] ?? name;
}

export function summarise(result, answer) {
  drawBadge(find("badge"), result.status);
  find("count").textContent = `${hitsIn(result)} · ${answer.pipeline}`;
  find("notes").replaceChildren(...notes(result).map((text) => element("li", "", text)));
  find("share").textContent = "Copy link";
  drawTimings(result.timings);
  find("summary").hidden = false;
}

function drawTimings(timings) {
  const stages = TIMED.filter((stage) => stage in timings);
  const total = Math.max(timings.total ?? 0, stages.reduce((sum, stage) => sum + timings[stage], 0)) || 1;
  let start = 0;
  const pieces = [];
  const rows = [];
  for (const stage of stages) {
    const piece = element("span", stage);
    piece.style.width = `${(100 * timings[stage]) / total}%`;
    piece.title = `${STAGE_NAMES[stage] ?? stage} ${milliseconds(timings[stage])}`;
    pieces.push(piece);
    const row = element("div", `span ${stage}`);
    const rail = element("span");
    const bar = element("i");
    bar.style.left = `${(100 * start) / total}%`;
    bar.style.width = `${(100 * timings[stage]) / total}%`;
    rail.append(bar);
    row.append(element("b", "", STAGE_NAMES[stage] ?? stage), rail, element("output", "", milliseconds(timings[stage])));
    rows.push(row);
    start += timings[stage];
  }
  find("track").replaceChildren(...pieces);
  find("timings").replaceChildren(...rows);
}

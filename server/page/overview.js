// All indexes, and what the service has counted, read from its own metrics.

import { breakable, bytes, count, element, find, milliseconds, pairs, table } from "./dom.js";
import { STAGE_NAMES } from "./hits.js";
import { ask, askText, said } from "./service.js";

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

// Prometheus' text format: a list of samples by name.
export function parseMetrics(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const found = LINE.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] ?? "").matchAll(LABEL)) labels[name] = value.replace(/\\(.)/g, "$1");
    if (!samples.has(found[1])) samples.set(found[1], []);
    samples.get(found[1]).push({ labels, value: Number(found[3]) });
  }
  return samples;
}

const sum = (samples, name, fits = () => true) =>
  (samples.get(name) ?? []).filter(({ labels }) => fits(labels)).reduce((total, { value }) => total + value, 0);

// Histograms by the value of a label, each with a mean and quantiles, interpolated within their bucket.
function histograms(samples, name, label) {
  const found = new Map();
  const entry = (labels) => {
    const key = labels[label] ?? "";
    if (!found.has(key)) found.set(key, { name: key, buckets: [], count: 0, sum: 0 });
    return found.get(key);
  };
  for (const { labels, value } of samples.get(`${name}_bucket`) ?? []) {
    entry(labels).buckets.push([labels.le === "+Inf" ? Infinity : Number(labels.le), value]);
  }
  for (const { labels, value } of samples.get(`${name}_count`) ?? []) entry(labels).count = value;
  for (const { labels, value } of samples.get(`${name}_sum`) ?? []) entry(labels).sum = value;
  return [...found.values()].filter((one) => one.count > 0);
}

export function quantile({ buckets, count: total }, share) {
  const sorted = [...buckets].sort(([one], [other]) => one - other);
  let [before, below] = [0, 0];
  for (const [bound, reached] of sorted) {
    if (reached >= share * total) {
      if (bound === Infinity) return { value: before, beyond: true };
      return { value: before + ((bound - before) * (share * total - below)) / (reached - below || 1), beyond: false };
    }
    [before, below] = [bound, reached];
  }
  return { value: before, beyond: true };
}

function seconds(histogram, share) {
  const { value, beyond } = quantile(histogram, share);
  return `${beyond ? "> " : ""}${milliseconds(1000 * value)}`;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function times(samples, name, label, heading, names = {}) {
  const rows = histograms(samples, name, label).sort((one, other) => other.sum - one.sum);
  if (!rows.length) return element("p", "note", "Nothing yet.");
  return table(
    [heading, "Count", "Half under", "95% under"],
    rows.map((row) => [breakable(names[row.name] ?? capital(row.name)), count(row.count), seconds(row, 0.5), seconds(row, 0.95)]),
  );
}

function drawTiles(samples) {
  const failed = sum(samples, "retriever_requests_total", ({ status }) => status >= 500);
  const tiles = [
    ["Queries", sum(samples, "retriever_queries_total")],
    ["Requests", sum(samples, "retriever_requests_total")],
    ["Failed (5xx)", failed, failed > 0],
    ["Turned away", sum(samples, "retriever_rejected_total") + sum(samples, "retriever_batch_rejected_total")],
    ["Degraded", sum(samples, "retriever_degraded_total")],
    ["Truncated", sum(samples, "retriever_truncated_total")],
    ["Running", sum(samples, "retriever_running_requests")],
    ["Waiting", sum(samples, "retriever_waiting_requests")],
  ];
  const made = pairs(tiles.map(([name, value]) => [name, count(value)]));
  made.forEach((tile, position) => tile.classList.toggle("bad", Boolean(tiles[position][2])));
  find("tiles").replaceChildren(...made);
}

function drawModels(models, samples) {
  if (!models.length) return element("p", "note", "None.");
  return table(
    ["Model", "Task", "Tokens read", "Texts a batch"],
    models.map((model) => {
      const fits = (labels) => labels.model === model.id;
      const batches = sum(samples, "retriever_batch_inputs_count", fits);
      const texts = sum(samples, "retriever_batch_inputs_sum", fits);
      const task = [model.task, model.output, model.dimensions && `${model.dimensions} wide`].filter(Boolean).join(", ");
      return [breakable(model.id), task, count(sum(samples, "retriever_model_tokens_total", fits)), batches ? count(texts / batches) : "–"];
    }),
  );
}

function code(text) {
  const made = element("code", "", text.slice(0, 12));
  made.title = text;
  return made;
}

function indexCard(summary, about) {
  const made = element("article", "index-card");
  const head = element("h3");
  head.append(...breakable(summary.name));
  if (summary.is_default) head.append(" ", element("span", "badge exact", "default"));
  for (const alias of summary.aliases) head.append(" ", element("span", "badge", alias));
  made.append(head);
  for (const text of [summary.error, about?.write_error]) if (text) made.append(element("p", "problem", text));
  if (!about) return made;
  const { index } = about;
  const entries = [
    ["Documents", count(summary.documents)],
    ["Generation", `${summary.generation}, ${index.segments} ${index.segments === 1 ? "segment" : "segments"}`],
    ["Size", bytes(index.bytes.total)],
    ["Encoder", about.encoder ? breakable(about.encoder) : "none"],
    ["Analyser", index.inverted?.analyser ?? "none"],
    ["Pipelines", Object.keys(about.pipelines).join(", ")],
    ["Fields", Object.keys(about.fields).join(", ") || "none"],
    ["Fingerprint", code(summary.fingerprint)],
    ["Changes", about.writable ? waiting(about) : "read only"],
  ];
  const list = element("dl", "pairs");
  list.append(...pairs(entries));
  made.append(list);
  return made;
}

function waiting({ unapplied_writes: unapplied, pending_encoding: pending }) {
  if (!unapplied && !pending) return "all searchable";
  return `${count(unapplied)} not searchable yet, ${count(pending)} without vectors`;
}

function drawLimits(info) {
  const { limits } = info;
  find("limits").replaceChildren(
    ...pairs([
      ["Version", info.version],
      ["Hits a request", count(limits.k)],
      ["Queries a request", count(limits.queries)],
      ["At the same time", `${limits.concurrent_requests}, ${limits.waiting_requests} may wait`],
      ["Deadline", milliseconds(limits.default_deadline_ms)],
      ["Largest body", bytes(limits.body_bytes)],
      ["Built on", Object.entries(info.versions).map((entry) => entry.join(" ")).join(", ")],
    ]),
  );
}

export async function drawOverview() {
  const state = find("overview-state");
  state.textContent = "Reading …";
  const problems = [];
  // One part that fails does not hide the others.
  const part = async (promise) => promise.catch((error) => (problems.push(error), null));
  const [info, indexes, models, metrics] = await Promise.all([
    part(ask("v1/info")), part(ask("v1/indexes")), part(ask("v1/models")), part(askText("metrics")),
  ]);
  const listed = indexes?.indexes ?? [];
  const described = await Promise.all(
    listed.map((one) => (one.documents === null ? null : part(ask(`v1/indexes/${encodeURIComponent(one.name)}`)))),
  );
  const samples = parseMetrics(metrics ?? "");
  drawTiles(samples);
  find("index-cards").replaceChildren(...listed.map((summary, position) => indexCard(summary, described[position])));
  find("stage-table").replaceChildren(times(samples, "retriever_stage_seconds", "stage", "Stage", STAGE_NAMES));
  find("route-table").replaceChildren(times(samples, "retriever_request_seconds", "route", "Route"));
  find("model-table").replaceChildren(drawModels(models?.data ?? [], samples));
  if (info) drawLimits(info);
  const texts = new Set(problems.map((error) => said(error)).map(({ title, text }) => `${title} ${text}`));
  find("overview-problems").replaceChildren(...[...texts].map((text) => element("p", "panel problem-panel", text)));
  state.textContent = problems.length ? "" : `read at ${new Date().toLocaleTimeString("en", { hour12: false })}`;
  return problems.find((error) => error.status === 401) ?? null;
}

// The search page. What comes from an index only ever becomes text, never markup.

const find = (id) => document.getElementById(id);
const form = find("search");
const query = find("query");
const pipelineSelect = find("pipeline");
const hitsInput = find("k");
const filterBox = find("filter");
const groupBox = find("group");
const results = find("results");
const stageBoxes = [...find("stages").querySelectorAll("input")];

const STAGES = ["bm25", "dense", "fusion", "rerank"];
const STAGE_NAMES = { bm25: "BM25", dense: "Dense", fusion: "Fusion", rerank: "Rerank" };
// In the order in which the engine runs them.
const TIMED = ["filter", "encode", "dense", "bm25", "fusion", "rerank", "documents", "highlight"];
const EXCERPT = 340;
const KEY = "retriever-api-key";

const SENTENCES = {
  no_terms: "No word of the query occurs in the index, so BM25 found nothing.",
  dense_failed: "Dense retrieval failed and was left out.",
  rerank_failed: "The reranker failed and was left out.",
  rerank_timeout: "Reranking ran out of time and was left out.",
  rerank_constant_or_nan: "The reranker gave no usable scores and was left out.",
};
const BADGES = {
  exact: "Every document that the filter allows was looked at.",
  approximate: "An approximate vector index chose the candidates.",
  truncated: "The query was longer than what was read of it.",
  degraded: "A stage was left out.",
};

let info = null;
let running = null;

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

// Long names may go on in the next line after a dot, slash or underscore.
function breakable(text) {
  return text.split(/(?<=[./_])/).flatMap((piece) => [piece, element("wbr")]).slice(0, -1);
}

class ServiceError extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `The service answered ${status}.`);
    this.status = status;
    this.code = body?.error?.code ?? "";
    this.requestId = body?.request_id ?? "";
  }
}

async function ask(path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers["Authorization"] = `Bearer ${key}`;
  const options = { headers, signal };
  if (body) {
    headers["Content-Type"] = "application/json";
    options.method = "POST";
    options.body = JSON.stringify(body);
  }
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => null);
  if (!response.ok || answer === null) throw new ServiceError(response.status, answer);
  return answer;
}

// The address holds the whole search, so that a link repeats it.

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  query.value = given.get("q") ?? "";
  const wanted = given.get("pipeline");
  pipelineSelect.value = info.pipelines[wanted] ? wanted : info.default_pipeline;
  hitsInput.value = given.get("k") ?? "10";
  filterBox.value = given.get("filter") ?? "";
  groupBox.checked = given.has("group");
  const without = (given.get("without") ?? "").split(",");
  for (const box of stageBoxes) box.checked = !without.includes(box.value);
  if (filterBox.value) showFilter(true);
  fitStages();
}

function writeAddress() {
  const given = new URLSearchParams();
  if (query.value.trim()) given.set("q", query.value.trim());
  if (pipelineSelect.value !== info.default_pipeline) given.set("pipeline", pipelineSelect.value);
  if (hitsInput.value !== "10") given.set("k", hitsInput.value);
  if (without().length) given.set("without", without().join(","));
  if (filterBox.value.trim()) given.set("filter", filterBox.value.trim());
  if (groupBox.checked) given.set("group", "1");
  const hash = `#${given}`;
  if (hash !== (location.hash || "#")) history.pushState(null, "", hash);
}

// Controls

function stagesOf(name) {
  const spec = info.pipelines[name];
  return [...spec.first, ...(spec.rerank ? ["rerank"] : [])];
}

function fitStages() {
  const present = stagesOf(pipelineSelect.value);
  for (const box of stageBoxes) {
    box.disabled = !present.includes(box.value);
    box.closest("label").title = box.disabled ? `The pipeline ${pipelineSelect.value} does not have this stage.` : "";
  }
}

function without() {
  return stageBoxes.filter((box) => !box.disabled && !box.checked).map((box) => box.value);
}

function keepOneFirstStage(changed) {
  const first = stageBoxes.filter((box) => box.value !== "rerank" && !box.disabled);
  // Without a first stage there is nothing to rank; the other one takes over.
  if (first.some((box) => box.checked)) return;
  (first.find((box) => box !== changed) ?? changed).checked = true;
}

function readFilter() {
  const text = filterBox.value.trim();
  let problem = "";
  let filter = null;
  if (text) {
    try {
      filter = JSON.parse(text);
      if (filter === null || typeof filter !== "object" || Array.isArray(filter)) {
        problem = "A filter is an object, such as {\"field\": \"value\"}.";
      }
    } catch (error) {
      problem = `Not JSON yet: ${error.message}`;
    }
  }
  find("filter-problem").textContent = problem;
  filterBox.setAttribute("aria-invalid", String(Boolean(problem)));
  find("filter-toggle").classList.toggle("on", Boolean(text));
  return problem ? undefined : filter;
}

function showFilter(open) {
  find("filter-panel").hidden = !open;
  find("filter-toggle").setAttribute("aria-expanded", String(open));
}

function addToFilter(name, value) {
  const filter = readFilter();
  if (filter === undefined) return;
  filterBox.value = JSON.stringify({ ...filter, [name]: value });
  showFilter(true);
  submit();
}

// Searching

function requestBody(filter) {
  const body = { query: query.value.trim(), k: Number(hitsInput.value), pipeline: pipelineSelect.value, highlight: true };
  if (without().length) body.without = without();
  if (filter) body.filter = filter;
  if (groupBox.checked) body.group_by_parent = true;
  return body;
}

async function submit({ remember = true } = {}) {
  running?.abort();
  const filter = readFilter();
  if (filter === undefined) {
    showFilter(true);
    filterBox.focus();
    return;
  }
  if (!hitsInput.checkValidity() || hitsInput.value === "") {
    hitsInput.reportValidity();
    return;
  }
  if (remember) writeAddress();
  if (!query.value.trim()) {
    welcome();
    return;
  }
  const mine = (running = new AbortController());
  document.body.classList.add("searching");
  try {
    const answer = await ask("v1/search", requestBody(filter), mine.signal);
    if (mine === running) show(answer);
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
  } finally {
    if (mine === running) document.body.classList.remove("searching");
  }
}

function clear() {
  for (const id of ["summary", "problem", "blank", "key-form"]) find(id).hidden = true;
  results.replaceChildren();
}

function fail(error) {
  clear();
  if (error.status === 401) {
    find("key-form").hidden = false;
    find("key").focus();
    return;
  }
  const unreachable = !(error instanceof ServiceError);
  find("problem-title").textContent = unreachable ? "The service cannot be reached." : titleOf(error.status);
  find("problem-text").textContent = unreachable ? "It may have been stopped; the search can be repeated." : error.message;
  find("problem-detail").textContent = unreachable
    ? ""
    : [`${error.status} ${error.code}`, error.requestId && `request ${error.requestId}`].filter(Boolean).join("  ·  ");
  find("problem").hidden = false;
}

function titleOf(status) {
  if (status === 429) return "The service is busy.";
  if (status === 503) return "The service is not ready.";
  return status < 500 ? "The search was refused." : "The search failed.";
}

// Showing an answer

function show(answer) {
  clear();
  document.title = `${query.value.trim()} – Search`;
  const [result] = answer.results;
  summarise(result, answer);
  if (!result.hits.length) {
    nothing(result);
    return;
  }
  const ranges = scoreRanges(result.hits);
  results.replaceChildren(...result.hits.map((hit, position) => card(hit, position, ranges, answer.stages)));
}

function summarise(result, answer) {
  const badge = find("badge");
  badge.textContent = result.status;
  badge.className = `badge ${result.status}`;
  badge.title = BADGES[result.status] ?? "";
  const documents = result.hits.length === 1 ? "1 hit" : `${result.hits.length} hits`;
  find("count").textContent = `${documents} in ${milliseconds(result.timings.total)} · ${answer.pipeline}`;
  const notes = [];
  if (result.truncated) notes.push(BADGES.truncated);
  for (const name of [...result.degraded, ...result.warnings]) notes.push(sentence(name));
  find("notes").replaceChildren(...notes.map((text) => element("li", "", text)));
  find("share").textContent = "Copy link";
  drawTimings(result.timings);
  find("summary").hidden = false;
}

function sentence(name) {
  const cut = /^rerank_truncated_documents:(\d+)$/.exec(name);
  if (cut) return `${cut[1]} documents were longer than the reranker reads.`;
  return SENTENCES[name] ?? name;
}

function milliseconds(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return `${value.toFixed(value < 10 ? 1 : 0)} ms`;
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

function scoreRanges(hits) {
  const ranges = {};
  for (const { scores } of hits) {
    for (const [stage, score] of Object.entries(scores)) {
      const range = (ranges[stage] ??= [score, score]);
      range[0] = Math.min(range[0], score);
      range[1] = Math.max(range[1], score);
    }
  }
  return ranges;
}

function card(hit, position, ranges, asked) {
  const made = find("card").content.firstElementChild.cloneNode(true);
  const part = (selector) => made.querySelector(selector);
  part(".rank").textContent = position + 1;
  part("h2").append(...breakable(hit.title || hit.id));
  const names = [hit.id, hit.chunk].filter((name) => name && name !== (hit.title || hit.id));
  part(".id").append(...breakable(names.join(" · ")));
  fillText(part(".text"), hit, false);
  part(".text").addEventListener("click", () => open(made, hit, true));
  made.toggle = () => open(made, hit, !made.classList.contains("open"));
  part(".tags").append(...tags(hit.metadata ?? {}));
  const deciding = STAGES.findLast((stage) => stage in hit.scores);
  for (const stage of STAGES) {
    if (stage in hit.scores || (asked.includes(stage) && stage in ranges)) {
      part(".bars").append(scoreBar(stage, hit.scores[stage], ranges[stage], stage === deciding));
    }
  }
  return made;
}

function scoreBar(stage, score, [low, high], deciding) {
  const bar = element("div", `bar ${stage}`);
  const rail = element("span");
  const fill = element("i");
  if (score === undefined) {
    bar.classList.add("absent");
  } else {
    bar.classList.toggle("deciding", deciding);
    // The lowest of the answer keeps a visible piece, so that it differs from a score that is absent.
    fill.style.width = `${8 + 92 * (high > low ? (score - low) / (high - low) : 1)}%`;
    rail.append(fill);
  }
  const value = element("output", "", score === undefined ? "not seen" : Number(score.toPrecision(4)).toString());
  bar.append(element("b", "", STAGE_NAMES[stage]), value, rail);
  bar.firstChild.style.fontWeight = "inherit";
  return bar;
}

function tags(metadata) {
  const made = [];
  for (const [name, value] of Object.entries(metadata)) {
    if (!["string", "number", "boolean"].includes(typeof value) || String(value).length > 200) continue;
    const filterable = name in info.fields;
    const tag = element(filterable ? "button" : "span", "tag", `${name}: ${value}`);
    if (filterable) {
      tag.type = "button";
      tag.title = "Only such documents";
      tag.addEventListener("click", () => addToFilter(name, value));
    }
    made.push(tag);
    if (made.length === 8) break;
  }
  return made;
}

function open(made, hit, wanted) {
  made.classList.toggle("open", wanted);
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

function nothing(result) {
  find("blank-title").textContent = "Nothing found";
  const reasons = [];
  if (filterBox.value.trim()) reasons.push("The filter may leave no document.");
  if (result.warnings.includes("no_terms") && !stageBoxes.some((box) => box.value === "dense" && box.checked && !box.disabled)) {
    reasons.push("Dense retrieval finds documents that use other words.");
  }
  find("blank-text").textContent = reasons.join(" ") || "Try other words.";
  find("blank").hidden = false;
}

function welcome() {
  clear();
  document.title = "Search";
  const count = info.index.documents.toLocaleString("en");
  find("blank-title").textContent = `Search ${count} ${info.index.documents === 1 ? "document" : "documents"}`;
  find("blank-text").textContent =
    "Ask in your own words. Every hit shows what each stage thought of it, and every answer how far it can be trusted.";
  find("blank").hidden = false;
}

// Beginning

async function begin() {
  try {
    info = await ask("v1/info");
  } catch (error) {
    fail(error);
    return;
  }
  const facts = [`${info.index.documents.toLocaleString("en")} documents`, info.encoder].filter(Boolean).join(" · ");
  find("facts").replaceChildren(facts, element("span", "generation", ` · generation ${info.index.generation}`));
  pipelineSelect.replaceChildren(...Object.keys(info.pipelines).map((name) => element("option", "", name)));
  hitsInput.max = info.limits.k;
  find("group-label").hidden = !info.index.chunking;
  const fields = Object.entries(info.fields).map(([name, kind]) => element("span", "tag", `${name}: ${kind}`));
  find("filter-fields").replaceChildren(...(fields.length ? ["Fields:", ...fields] : []));
  readAddress();
  await submit({ remember: false });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (info) submit();
});
for (const control of [pipelineSelect, hitsInput, groupBox, ...stageBoxes]) {
  control.addEventListener("change", () => {
    if (stageBoxes.includes(control)) keepOneFirstStage(control);
    fitStages();
    if (query.value.trim()) submit();
  });
}
filterBox.addEventListener("input", readFilter);
filterBox.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit();
});
find("filter-toggle").addEventListener("click", () => {
  showFilter(find("filter-panel").hidden);
  if (!find("filter-panel").hidden) filterBox.focus();
});
find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, find("key").value.trim());
  find("key").value = "";
  clear();
  if (info) submit();
  else begin();
});
find("share").addEventListener("click", async () => {
  const done = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
  find("share").textContent = done ? "Copied" : "The address bar has the link";
});
find("home").addEventListener("click", (event) => {
  event.preventDefault();
  history.pushState(null, "", location.pathname);
  if (info) readAddress();
  welcome();
  query.focus();
});
addEventListener("popstate", () => {
  if (!info) return;
  readAddress();
  submit({ remember: false });
});

function move(step) {
  const cards = [...results.children];
  if (!cards.length) return;
  const position = cards.indexOf(document.activeElement.closest(".card"));
  const next = position + step;
  if (next < 0) {
    query.focus();
    return;
  }
  const target = cards[Math.min(next, cards.length - 1)];
  target.focus({ preventScroll: true });
  target.scrollIntoView({ block: "nearest" });
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.target;
  const typing = target.matches("input:not([type=checkbox]), textarea, select");
  if (event.key === "Escape") {
    target.blur();
  } else if (target === query && event.key === "ArrowDown") {
    event.preventDefault();
    move(1);
  } else if (typing) {
    return;
  } else if (event.key === "/") {
    event.preventDefault();
    query.focus();
    query.select();
  } else if (event.key === "j" || event.key === "ArrowDown") {
    event.preventDefault();
    move(1);
  } else if (event.key === "k" || event.key === "ArrowUp") {
    event.preventDefault();
    move(-1);
  } else if ((event.key === "o" || event.key === "Enter") && target.matches(".card")) {
    target.toggle();
  }
});

begin();

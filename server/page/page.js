// The console. What comes from an index only ever becomes text, never markup.

import { summarise } from "./answers.js";
import { clearComparison, showComparison, showSide } from "./comparison.js";
import { count, element, find } from "./dom.js";
import { card, scoreRanges } from "./hits.js";
import { drawFacets, facetRequest, filterBox, readFilter, setCondition, showPanel } from "./narrowing.js";
import { drawOverview } from "./overview.js";
import { ask, keepKey, said } from "./service.js";

const MOST_FIELDS_SHOWN = 24;

const query = find("query");
const indexSelect = find("index");
const pipelineSelect = find("pipeline");
const compareSelect = find("compare");
const hitsInput = find("k");
const relevanceInput = find("relevance");
const groupBox = find("group");
const results = find("results");
const stageBoxes = [...find("stages").querySelectorAll("input")];

let info = null;
// The index that is searched: what /v1/info or /v1/indexes/NAME says of it.
let about = null;
let defaultIndex = "";
let running = null;
let facets = null;

const overviewShown = () => !find("overview-view").hidden;
const comparing = () => compareSelect.value !== "";
const isOpen = (name) => !find(`${name}-panel`).hidden;

// The address holds the whole search, so that a link repeats it.

async function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  await chooseIndex(given.get("index") ?? defaultIndex);
  query.value = given.get("q") ?? "";
  const known = (name) => (Object.hasOwn(about.pipelines, name ?? "") ? name : null);
  pipelineSelect.value = known(given.get("pipeline")) ?? about.default_pipeline;
  compareSelect.value = known(given.get("compare")) ?? "";
  hitsInput.value = given.get("k") ?? "10";
  filterBox.value = given.get("filter") ?? "";
  relevanceInput.value = given.get("relevance") ?? "";
  groupBox.checked = given.has("group");
  const without = (given.get("without") ?? "").split(",");
  for (const box of stageBoxes) box.checked = !without.includes(box.value);
  if (filterBox.value) showPanel("filter", true);
  showPanel("facets", given.has("facets") && hasFields());
  readFilter();
  drawFacets(about.fields, null, submit);
  fitStages();
  return given.get("view") === "overview";
}

function address() {
  const given = new URLSearchParams();
  if (overviewShown()) given.set("view", "overview");
  if (query.value.trim()) given.set("q", query.value.trim());
  if (indexSelect.value !== defaultIndex) given.set("index", indexSelect.value);
  if (pipelineSelect.value !== about.default_pipeline) given.set("pipeline", pipelineSelect.value);
  if (comparing()) given.set("compare", compareSelect.value);
  if (hitsInput.value !== "10") given.set("k", hitsInput.value);
  if (without().length) given.set("without", without().join(","));
  if (filterBox.value.trim()) given.set("filter", filterBox.value.trim());
  if (relevanceInput.value !== "" && !find("relevance-label").hidden) given.set("relevance", relevanceInput.value);
  if (groupBox.checked) given.set("group", "1");
  if (isOpen("facets")) given.set("facets", "1");
  return `#${given}`;
}

function writeAddress() {
  if (address() !== (location.hash || "#")) history.pushState(null, "", address());
}

// Controls

async function chooseIndex(name) {
  if (![...indexSelect.options].some((option) => option.value === name)) name = defaultIndex;
  indexSelect.value = name;
  about = name === defaultIndex ? info : await ask(`v1/indexes/${encodeURIComponent(name)}`);
  const names = Object.keys(about.pipelines);
  pipelineSelect.replaceChildren(...names.map((name) => new Option(name)));
  compareSelect.replaceChildren(new Option("nothing", ""), ...names.map((name) => new Option(name)));
  pipelineSelect.value = about.default_pipeline;
  find("group-label").hidden = !about.index.chunking;
  if (!about.index.chunking) groupBox.checked = false;
  for (const box of stageBoxes) box.closest("label").hidden = !names.some((name) => stagesOf(name).includes(box.value));
  const entries = Object.entries(about.fields).slice(0, MOST_FIELDS_SHOWN);
  const fields = entries.map(([name, kind]) => element("span", "tag", `${name}: ${kind}`));
  find("filter-fields").replaceChildren(...(fields.length ? ["Fields:", ...fields] : ["This index has no fields to filter by."]));
  find("facets-toggle").hidden = !hasFields();
  facets = null;
  const facts = [`${count(about.index.documents)} documents`, about.encoder].filter(Boolean).join(" · ");
  find("facts").replaceChildren(facts, element("span", "generation", ` · generation ${about.index.generation}`));
}

const hasFields = () => Object.keys(about.fields).length > 0;

function stagesOf(name) {
  const spec = about.pipelines[name];
  return [...spec.first, ...(spec.rerank ? ["rerank"] : [])];
}

// The same text for the same value, whatever the order of its names.
const canonical = (value) =>
  JSON.stringify(value, (_, part) =>
    part && typeof part === "object" && !Array.isArray(part) ? Object.fromEntries(Object.entries(part).sort()) : part,
  );

// A calibration is one of exactly these stages.
function isCalibrated(name) {
  if (without().length) return false;
  return about.index.calibrations.some(({ pipeline }) => canonical(pipeline) === canonical(about.pipelines[name]));
}

function fitStages() {
  // A comparison is one of whole pipelines.
  find("stages").hidden = comparing();
  const present = stagesOf(pipelineSelect.value);
  for (const box of stageBoxes) {
    box.disabled = !present.includes(box.value);
    box.closest("label").title = box.disabled ? `The pipeline ${pipelineSelect.value} does not have this stage.` : "";
  }
  find("relevance-label").hidden = !chosenPipelines().some(isCalibrated);
}

const chosenPipelines = () => [pipelineSelect.value, ...(comparing() ? [compareSelect.value] : [])];

function without() {
  if (comparing()) return [];
  return stageBoxes.filter((box) => !box.disabled && !box.checked).map((box) => box.value);
}

function keepOneFirstStage(changed) {
  const first = stageBoxes.filter((box) => box.value !== "rerank" && !box.disabled);
  // Without a first stage there is nothing to rank; another one takes over.
  if (first.some((box) => box.checked)) return;
  (first.find((box) => box !== changed) ?? changed).checked = true;
}

function narrow(name, value) {
  if (!setCondition(name, value)) return;
  showPanel("filter", true);
  submit();
}

function toggleFacets() {
  showPanel("facets", !isOpen("facets"));
  if (isOpen("facets") && query.value.trim() && !facets) submit();
  else writeAddress();
}

// Searching

const searchPath = () =>
  indexSelect.value === defaultIndex ? "v1/search" : `v1/indexes/${encodeURIComponent(indexSelect.value)}/search`;

function requestBody(filter, pipeline) {
  const body = { query: query.value.trim(), k: Number(hitsInput.value), pipeline, highlight: true };
  if (without().length) body.without = without();
  if (filter) body.filter = filter;
  if (relevanceInput.value !== "" && isCalibrated(pipeline)) body.min_relevance = Number(relevanceInput.value);
  if (groupBox.checked) body.group_by_parent = true;
  return body;
}

async function submit({ remember = true } = {}) {
  running?.abort();
  const filter = readFilter();
  if (filter === undefined) {
    showPanel("filter", true);
    filterBox.focus();
    return;
  }
  if (!hitsInput.checkValidity() || hitsInput.value === "") {
    hitsInput.reportValidity();
    return;
  }
  if (!find("relevance-label").hidden && !relevanceInput.checkValidity()) {
    relevanceInput.reportValidity();
    return;
  }
  if (remember) writeAddress();
  if (!query.value.trim()) {
    welcome();
    return;
  }
  const mine = (running = new AbortController());
  document.body.classList.add("searching");
  const bodies = chosenPipelines().map((pipeline) => requestBody(filter, pipeline));
  const asked = [...bodies];
  if (isOpen("facets")) asked[0] = { ...bodies[0], ...facetRequest(about.fields) };
  const path = searchPath();
  try {
    const answers = await Promise.all(asked.map((body) => ask(path, body, mine.signal)));
    if (mine === running) show(answers, bodies, path);
  } catch (error) {
    if (mine === running && error.name !== "AbortError") fail(error);
    // What another list still waits for is of no use any more.
    mine.abort();
  } finally {
    if (mine === running) document.body.classList.remove("searching");
  }
}

function clear() {
  for (const id of ["summary", "problem", "blank", "key-form"]) find(id).hidden = true;
  results.replaceChildren();
  clearComparison();
}

function fail(error) {
  clear();
  if (error.status === 401) {
    find("key-form").hidden = false;
    find("key").focus();
    return;
  }
  const { title, text, detail } = said(error);
  find("problem-title").textContent = title;
  find("problem-text").textContent = text;
  find("problem-detail").textContent = detail;
  find("problem").hidden = false;
}

function show(answers, bodies, path) {
  clear();
  document.title = `${bodies[0].query} – Search`;
  const [{ facets: counted, hits }] = answers[0].results;
  if (isOpen("facets")) facets = counted ?? null;
  drawFacets(about.fields, facets, submit);
  const options = (side, position) => ({
    fields: about.fields,
    narrow,
    explain: () => explanation(path, bodies[side], position),
  });
  if (answers.length > 1) {
    showComparison(answers, options);
    return;
  }
  summarise(answers[0].results[0], answers[0]);
  if (!hits.length) {
    nothing(answers[0].results[0]);
    return;
  }
  const ranges = scoreRanges(hits);
  const asked = answers[0].stages;
  results.replaceChildren(...hits.map((hit, position) => card(hit, position, { ...options(0, position), ranges, asked })));
}

async function explanation(path, body, position) {
  const { highlight, ...rest } = body;
  const answer = await ask(path, { ...rest, k: 1, offset: position, explain: true, include_documents: false });
  return answer.results[0].hits[0];
}

function nothing(result) {
  find("blank-title").textContent = "Nothing found";
  const reasons = [];
  if (filterBox.value.trim()) reasons.push("The filter may leave no document.");
  if (relevanceInput.value !== "" && isCalibrated(pipelineSelect.value)) reasons.push("No document may be as relevant as is asked for.");
  if (result.warnings.includes("no_terms") && !stageBoxes.some((box) => box.value === "dense" && box.checked && !box.disabled)) {
    reasons.push("Dense retrieval finds documents that use other words.");
  }
  find("blank-text").textContent = reasons.join(" ") || "Try other words.";
  find("blank").hidden = false;
}

function welcome() {
  clear();
  facets = null;
  drawFacets(about.fields, null, submit);
  document.title = "Search";
  find("blank-title").textContent = `Search ${count(about.index.documents)} ${about.index.documents === 1 ? "document" : "documents"}`;
  find("blank-text").textContent =
    "Ask in your own words. Every hit shows what each stage thought of it, and every answer how far it can be trusted.";
  find("blank").hidden = false;
}

// Views

async function showView(overview) {
  find("overview-view").hidden = !overview;
  find("search-view").hidden = overview;
  document.body.classList.toggle("on-overview", overview);
  find(overview ? "to-overview" : "to-search").setAttribute("aria-current", "page");
  find(overview ? "to-search" : "to-overview").removeAttribute("aria-current");
  if (!overview) return;
  document.title = "Overview";
  const problem = await drawOverview();
  if (problem) fail(problem);
}

async function changeView(overview) {
  if (!about || overview === overviewShown()) return;
  const shown = showView(overview);
  writeAddress();
  if (overview) find("overview-title").focus();
  else query.focus();
  await shown;
  if (!overview) document.title = query.value.trim() ? `${query.value.trim()} – Search` : "Search";
}

// Beginning

async function begin() {
  try {
    info = await ask("v1/info");
    const { indexes } = await ask("v1/indexes");
    const served = indexes.filter((one) => one.documents !== null);
    defaultIndex = indexes.find((one) => one.is_default)?.name ?? "";
    indexSelect.replaceChildren(...served.map((one) => new Option(one.name)));
    find("index-label").hidden = served.length < 2;
    hitsInput.max = info.limits.k;
    const overview = await readAddress();
    showView(overview);
    await submit({ remember: false });
  } catch (error) {
    fail(error);
  }
}

async function returnTo() {
  try {
    showView(await readAddress());
    await submit({ remember: false });
  } catch (error) {
    fail(error);
  }
}

find("search").addEventListener("submit", (event) => {
  event.preventDefault();
  if (about) submit();
});
indexSelect.addEventListener("change", async () => {
  running?.abort();
  filterBox.value = "";
  try {
    await chooseIndex(indexSelect.value);
  } catch (error) {
    fail(error);
    return;
  }
  showPanel("facets", isOpen("facets") && hasFields());
  for (const box of stageBoxes) box.checked = true;
  fitStages();
  submit();
});
for (const control of [pipelineSelect, compareSelect, hitsInput, relevanceInput, groupBox, ...stageBoxes]) {
  control.addEventListener("change", () => {
    if (stageBoxes.includes(control)) keepOneFirstStage(control);
    if (control === compareSelect) showSide(0);
    fitStages();
    if (query.value.trim()) submit();
  });
}
filterBox.addEventListener("input", readFilter);
filterBox.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit();
});
find("filter-apply").addEventListener("click", () => submit());
find("filter-clear").addEventListener("click", () => {
  filterBox.value = "";
  submit();
});
find("filter-toggle").addEventListener("click", () => {
  showPanel("filter", !isOpen("filter"));
  if (isOpen("filter")) filterBox.focus();
});
find("facets-toggle").addEventListener("click", toggleFacets);
find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(find("key").value.trim());
  find("key").value = "";
  clear();
  if (!about) begin();
  else if (overviewShown()) showView(true);
  else submit();
});
for (const id of ["share", "share-comparison"]) {
  find(id).addEventListener("click", async () => {
    const done = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
    find(id).textContent = done ? "Copied" : "The address bar has the link";
  });
}
find("home").addEventListener("click", async (event) => {
  event.preventDefault();
  history.pushState(null, "", location.pathname);
  if (!info) return;
  await returnTo();
  query.focus();
});
find("to-search").addEventListener("click", () => changeView(false));
find("to-overview").addEventListener("click", () => changeView(true));
find("refresh").addEventListener("click", () => showView(true));
find("help-open").addEventListener("click", () => find("help").showModal());
find("help-close").addEventListener("click", () => find("help").close());
addEventListener("popstate", () => {
  if (info) returnTo();
});

// Keys

function listOf(target) {
  const within = target.closest?.(".results");
  if (within) return within;
  if (find("comparison").hidden) return results;
  return document.querySelectorAll("#comparison .results")[Number(find("comparison").dataset.side)];
}

function focusCard(target) {
  target.focus({ preventScroll: true });
  target.scrollIntoView({ block: "nearest" });
}

function move(step) {
  const cards = [...listOf(document.activeElement).querySelectorAll(".card")];
  if (!cards.length) return;
  const next = cards.indexOf(document.activeElement.closest(".card")) + step;
  if (next < 0) query.focus();
  else focusCard(cards[Math.min(next, cards.length - 1)]);
}

function moveAcross(side) {
  if (find("comparison").hidden) return;
  const lists = [...document.querySelectorAll("#comparison .results")];
  const position = Math.max(0, [...listOf(document.activeElement).children].indexOf(document.activeElement.closest(".card")));
  showSide(side);
  const cards = [...lists[side].querySelectorAll(".card")];
  if (cards.length) focusCard(cards[Math.min(position, cards.length - 1)]);
}

const KEYS = {
  "/": () => {
    if (overviewShown()) changeView(false);
    query.focus();
    query.select();
  },
  j: () => move(1),
  ArrowDown: () => move(1),
  k: () => move(-1),
  ArrowUp: () => move(-1),
  h: () => moveAcross(0),
  ArrowLeft: () => moveAcross(0),
  l: () => moveAcross(1),
  ArrowRight: () => moveAcross(1),
  f: () => hasFields() && !overviewShown() && toggleFacets(),
  v: () => changeView(!overviewShown()),
  "?": () => find("help").showModal(),
};
const KEYS_OF_OVERVIEW = ["/", "v", "?"];
// These have a meaning of their own on other elements.
const CARD_KEYS = {
  o: (made) => made.toggle(),
  Enter: (made) => made.toggle(),
  e: (made) => made.explain(),
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || find("help").open || !about) return;
  const { key, target } = event;
  const typing = target.matches("input:not([type=checkbox]), textarea, select");
  if (key === "Escape") {
    // Browsers would empty the box.
    event.preventDefault();
    target.blur();
  } else if (target === query && key === "ArrowDown") {
    event.preventDefault();
    move(1);
  } else if (typing || (overviewShown() && !KEYS_OF_OVERVIEW.includes(key))) {
    return;
  } else if (key in KEYS) {
    event.preventDefault();
    KEYS[key]();
  } else if (key in CARD_KEYS && target.matches(".card")) {
    event.preventDefault();
    CARD_KEYS[key](target);
  }
});

begin();

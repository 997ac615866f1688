// The filter, as JSON in a box and as facets beside it. The box alone holds what is searched for.

import { count, element, find } from "./dom.js";

const MOST_FACETS = 8;
const VALUES = 8;

export const filterBox = find("filter");

// The filter as an object, null for none, undefined for what is no filter yet.
export function readFilter() {
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

export function showPanel(name, open) {
  find(`${name}-panel`).hidden = !open;
  find(`${name}-toggle`).setAttribute("aria-expanded", String(open));
}

// A condition of undefined takes the field's condition away.
export function setCondition(name, condition) {
  const filter = readFilter();
  if (filter === undefined) return false;
  const { [name]: _, ...rest } = filter ?? {};
  const changed = condition === undefined ? rest : { ...rest, [name]: condition };
  filterBox.value = Object.keys(changed).length ? JSON.stringify(changed) : "";
  readFilter();
  return true;
}

export const facetFields = (fields) =>
  Object.keys(fields).filter((name) => fields[name] !== "number").slice(0, MOST_FACETS);

export const facetRequest = (fields) => {
  const names = facetFields(fields);
  return names.length ? { facets: names, facet_values: VALUES } : {};
};

// facets: what an answer gave, or null; changed() searches again
export function drawFacets(fields, facets, changed) {
  const filter = readFilter() ?? {};
  const rows = [];
  for (const [name, kind] of Object.entries(fields)) {
    if (kind === "number") rows.push(rangeRow(name, filter[name], changed));
    else if (facets?.fields[name]) rows.push(valueRow(name, facets.fields[name], filter[name], changed));
  }
  find("facets").replaceChildren(...rows);
  find("facets-note").textContent = facets
    ? `Counted over ${facets.complete ? "" : "at least "}${count(facets.documents)} documents that match.`
    : "Search, and the values of the fields are counted here.";
}

function row(name) {
  const made = element("div", "facet");
  made.setAttribute("role", "group");
  made.setAttribute("aria-label", name);
  const parts = element("div", "facet-values");
  made.append(element("span", "facet-name", name), parts);
  return [made, parts];
}

function valueRow(name, values, condition, changed) {
  const [made, parts] = row(name);
  const chosen = chosenValues(condition);
  const shown = [...values, ...chosen.filter((one) => !values.some(({ value }) => value === one)).map((value) => ({ value }))];
  for (const { value, count: documents } of shown) {
    const button = element("button", "facet-value", String(value));
    button.type = "button";
    const pressed = chosen.includes(value);
    button.setAttribute("aria-pressed", String(pressed));
    if (documents !== undefined) button.append(element("small", "", count(documents)));
    button.addEventListener("click", () => {
      const now = pressed ? chosen.filter((one) => one !== value) : [...chosen, value];
      if (setCondition(name, now.length > 1 ? { in: now } : now[0])) changed();
    });
    parts.append(button);
  }
  if (!shown.length) parts.append(element("span", "note", "no values"));
  return made;
}

function chosenValues(condition) {
  if (condition === undefined || condition === null) return [];
  if (typeof condition !== "object") return [condition];
  return Array.isArray(condition.in) ? condition.in : [];
}

function rangeRow(name, condition, changed) {
  const [made, parts] = row(name);
  const boxes = [["gte", "from"], ["lte", "to"]].map(([bound, label]) => {
    const box = element("input");
    box.type = "number";
    box.step = "any";
    box.placeholder = label;
    box.setAttribute("aria-label", `${name} ${label}`);
    box.value = condition?.[bound] ?? "";
    box.dataset.bound = bound;
    return box;
  });
  for (const box of boxes) {
    box.addEventListener("change", () => {
      const given = boxes.filter((one) => one.value !== "").map((one) => [one.dataset.bound, Number(one.value)]);
      if (setCondition(name, given.length ? Object.fromEntries(given) : undefined)) changed();
    });
  }
  parts.append(boxes[0], element("span", "note", "–"), boxes[1]);
  return made;
}

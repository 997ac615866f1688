// Elements and numbers. Text given here only ever becomes text, never markup.

export const find = (id) => document.getElementById(id);

export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== "") made.textContent = text;
  return made;
}

// Long names may go on in the next line after a dot, slash or underscore.
export function breakable(text) {
  return text.split(/(?<=[./_])/).flatMap((piece) => [piece, element("wbr")]).slice(0, -1);
}

export function milliseconds(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}

export const count = (value) => value.toLocaleString("en", { maximumFractionDigits: 1 });

export const score = (value) => Number(value.toPrecision(4)).toString();

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  while (value >= 1024 && step < units.length - 1) [value, step] = [value / 1024, step + 1];
  return `${value.toFixed(step && value < 100 ? 1 : 0)} ${units[step]}`;
}

// rows: lists of strings, numbers or elements; the first cell names its row.
export function table(headings, rows) {
  const made = element("table");
  const head = made.createTHead().insertRow();
  for (const text of headings) {
    const cell = element("th", "", text);
    cell.scope = "col";
    head.append(cell);
  }
  const body = made.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    row.forEach((part, position) => {
      const cell = element(position ? "td" : "th");
      if (!position) cell.scope = "row";
      cell.append(...(Array.isArray(part) ? part : [part]));
      line.append(cell);
    });
  }
  return made;
}

export function pairs(entries) {
  return entries.map(([name, value]) => {
    const made = element("div");
    const shown = element("dd");
    shown.append(...(Array.isArray(value) ? value : [value]));
    made.append(element("dt", "", name), shown);
    return made;
  });
}

// Elements, and tables whose rows stay where they are while their contents change.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

// An element with these attributes (`onclick` and its like are listeners) and children.
export function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

// The same in an SVG.
export function svg(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

// Changes a text only if it differs, so that a selection in it stays.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Replaces the children of an element if what they are made of has changed.
export function refresh(element, key, make) {
  const text = JSON.stringify(key);
  if (element.dataset.key === text) return;
  element.dataset.key = text;
  element.replaceChildren(...[make()].flat());
}

export function panel(title, ...children) {
  return h("section", { class: "panel", "aria-label": title }, h("h2", {}, title), ...children);
}

// A table. A column: title, cell(row) -> text or element, number: aligned to the right, sort(row) -> what it is ordered by.
export class Table {
  constructor(caption, columns, { key, empty = "Nothing here.", most = 100, sort, descending = false } = {}) {
    Object.assign(this, { columns, key, most, sort, descending, rows: new Map(), data: [] });
    this.head = columns.map((column, number) => {
      const label = column.sort
        ? h("button", { type: "button", class: "sort", onclick: () => this.order(number) }, column.title)
        : column.title;
      return h("th", { scope: "col", class: column.number && "number" }, label);
    });
    this.body = h("tbody");
    this.note = h("p", { class: "empty", hidden: true }, empty);
    this.more = h("button", { type: "button", class: "more", hidden: true, onclick: () => {
      this.most *= 4;
      this.show(this.data);
    } });
    this.table = h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, this.head)), this.body);
    this.element = h("div", { class: "table" }, this.table, this.note, this.more);
    this.mark();
  }

  order(number) {
    this.descending = this.sort === number ? !this.descending : Boolean(this.columns[number].number);
    this.sort = number;
    this.mark();
    this.show(this.data);
  }

  mark() {
    this.head.forEach((cell, number) => {
      if (number === this.sort) cell.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
  }

  show(data) {
    this.data = data;
    let rows = data;
    const by = this.sort === undefined ? undefined : this.columns[this.sort].sort;
    if (by) {
      const compare = (one, other) => (typeof one === "number" ? one - other : String(one).localeCompare(String(other), "en", { numeric: true }));
      rows = [...data].sort((one, other) => compare(by(one), by(other)) * (this.descending ? -1 : 1));
    }
    rows = rows.slice(0, this.most);
    this.note.hidden = data.length > 0;
    this.table.hidden = data.length === 0;
    this.more.hidden = data.length <= this.most;
    setText(this.more, `Show more of ${data.length}`);
    const kept = new Set();
    let before = null;
    for (const row of rows) {
      const key = this.key(row);
      kept.add(key);
      let known = this.rows.get(key);
      if (!known) {
        const cells = this.columns.map((column) => h("td", { class: column.number && "number", "data-title": column.title }));
        known = { element: h("tr", {}, cells), cells };
        this.rows.set(key, known);
      }
      this.columns.forEach((column, number) => put(known.cells[number], column.cell(row)));
      const place = before ? before.nextSibling : this.body.firstChild;
      if (place !== known.element) this.body.insertBefore(known.element, place);
      before = known.element;
    }
    for (const [key, { element }] of this.rows) {
      if (!kept.has(key)) {
        element.remove();
        this.rows.delete(key);
      }
    }
  }
}

// Puts a text or an element into a cell, where it differs from what is there. An element is kept while it looks the same, so
// that a button in it keeps the focus.
function put(cell, content) {
  if (content instanceof Node) {
    const old = cell.firstChild;
    if (old && old === content) return;
    if (old && old.nodeType === 1 && content.nodeType === 1 && old.outerHTML === content.outerHTML && !content.dataset.fresh) return;
    cell.replaceChildren(content);
  } else setText(cell, content ?? "");
}

export function toast(text, kind = "good") {
  const element = h("p", { class: `toast ${kind}` }, text);
  document.getElementById("toasts").append(element);
  setTimeout(() => element.remove(), kind === "bad" ? 12000 : 6000);
}

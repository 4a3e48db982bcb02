// Plots of rates over time, and sparklines.

import { h, setText, svg } from "/ui/dom.js";
import { span } from "/ui/format.js";
import { get } from "/ui/api.js";

// A line of the last points, without axes.
export function sparkline(points, { width = 120, height = 28, most = 60, label } = {}) {
  const shown = points.slice(-most);
  const top = Math.max(...shown, 1e-9);
  const x = (number) => width - ((shown.length - 1 - number) / (most - 1)) * width;
  const y = (value) => height - 1.5 - (value / top) * (height - 3);
  const line = shown.map((value, number) => `${number ? "L" : "M"}${x(number).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const area = shown.length ? `${line}L${width} ${height}L${x(0).toFixed(1)} ${height}Z` : "";
  const named = label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" };
  return svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", ...named },
    svg("path", { class: "area", d: area }), svg("path", { class: "line", d: line }));
}

// The next number whose quarters are round.
function round(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.6, 2, 2.4, 3.2, 4, 4.8, 6, 8, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

const SPANS = { "10m": { words: "10 minutes", points: 600 }, "24h": { words: "24 hours", points: 5760 } };
const SIZE = { height: 230, left: 76, right: 14, top: 12, bottom: 28 };
// More would be narrower than a line.
const MOST = 600;

// The history of the node or of a service, as one plot at a time. metrics: [{ title, key, scale, format }].
export class Plot {
  constructor(title, metrics, query) {
    Object.assign(this, { metrics, query, metric: metrics[0], span: "10m", history: undefined, asked: 0 });
    this.value = h("output", { class: "reading" });
    this.drawing = h("div", { class: "drawing", tabindex: "0", role: "group", "aria-label": `${title}; the arrow keys read earlier values` });
    const choice = (name, options, take) => h("div", { class: "choice", role: "group", "aria-label": name },
      options.map(([text, value], number) => h("button", {
        type: "button", "aria-pressed": String(number === 0), onclick: (event) => {
          for (const button of event.currentTarget.parentNode.children) button.setAttribute("aria-pressed", String(button === event.currentTarget));
          take(value);
        },
      }, text)));
    this.element = h("section", { class: "panel plot", "aria-label": title },
      h("div", { class: "head" }, h("h2", {}, title), this.value,
        choice("What", metrics.map((metric) => [metric.title, metric]), (metric) => { this.metric = metric; this.draw(); }),
        choice("Since", [["10 min", "10m"], ["24 h", "24h"]], (span) => { this.span = span; this.asked = 0; this.history = undefined; this.update(); })),
      this.drawing);
    this.drawing.addEventListener("pointermove", (event) => this.point(event));
    for (const leave of ["pointerleave", "blur"]) this.drawing.addEventListener(leave, () => { this.at = undefined; this.draw(); });
    new ResizeObserver(() => this.groups && this.draw()).observe(this.drawing);
    this.drawing.addEventListener("keydown", (event) => this.step(event));
  }

  // Asks for the points, where there may be new ones.
  async update() {
    const now = Date.now();
    const step = this.span === "10m" ? 1 : 15;
    if (this.history && now - this.asked < step * 700) return;
    const asked = this.span;
    const query = new URLSearchParams({ ...this.query, span: asked });
    const history = await get(`/v1/history?${query}`);
    if (asked !== this.span) return;
    this.asked = now;
    this.history = history;
    this.draw();
  }

  points() {
    const { key, scale = 1 } = this.metric;
    return (this.history?.[key] ?? []).map((value) => value * scale);
  }

  draw() {
    const { words, points: all } = SPANS[this.span];
    const points = this.points();
    const { height, left, right, top, bottom } = SIZE;
    // A unit is a pixel, so that texts have their size.
    const width = Math.max(this.drawing.clientWidth, 420);
    // Several points in one place show as their highest: a peak is not lost.
    const group = Math.max(1, Math.ceil(all / MOST));
    const groups = [];
    for (let end = points.length; end > 0; end -= group) groups.unshift(Math.max(...points.slice(Math.max(0, end - group), end)));
    const slots = Math.ceil(all / group);
    const highest = round(Math.max(...groups, 0));
    const x = (number) => width - right - ((groups.length - 1 - number) / (slots - 1)) * (width - left - right);
    const y = (value) => height - bottom - (value / highest) * (height - top - bottom);
    Object.assign(this, { groups, slots, group });
    const line = groups.map((value, number) => `${number ? "L" : "M"}${x(number).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    const base = height - bottom;
    const area = groups.length ? `${line}L${x(groups.length - 1).toFixed(1)} ${base}L${x(0).toFixed(1)} ${base}Z` : "";
    const steps = [0, 0.25, 0.5, 0.75, 1];
    const mean = points.length ? points.reduce((sum, value) => sum + value, 0) / points.length : 0;
    const label = points.length
      ? `${this.metric.title}, last ${words}: now ${this.metric.format(points.at(-1))}, mean ${this.metric.format(mean)}, highest ${this.metric.format(Math.max(...points))}`
      : `${this.metric.title}, last ${words}: no traffic yet`;
    const ticks = this.span === "10m" ? [600, 480, 360, 240, 120, 0] : [86400, 64800, 43200, 21600, 0];
    const total = ticks[0];
    const lines = [
      ...steps.map((step) => svg("g", {},
        svg("line", { class: "grid", x1: left, x2: width - right, y1: y(highest * step), y2: y(highest * step) }),
        svg("text", { x: left - 8, y: y(highest * step) + 4, "text-anchor": "end" }, this.metric.format(highest * step)))),
      ...ticks.map((ago) => svg("text", {
        x: width - right - (ago / total) * (width - left - right), y: height - 6,
        "text-anchor": ago === 0 ? "end" : ago === total ? "start" : "middle",
      }, ago === 0 ? "now" : `-${span(ago).split(" ").slice(0, 2).join(" ")}`)),
    ];
    const cursor = this.at === undefined || this.at < 0 ? [] : [
      svg("line", { class: "cursor", x1: x(this.at), x2: x(this.at), y1: top, y2: base }),
      svg("circle", { class: "dot", cx: x(this.at), cy: y(groups[this.at] ?? 0), r: 3.5 }),
    ];
    this.drawing.replaceChildren(svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label },
      lines, svg("path", { class: "area", d: area }), svg("path", { class: "line", d: line }), cursor));
    this.read(points);
  }

  // The value under the pointer, else the last one.
  read(points) {
    const { format } = this.metric;
    if (this.at !== undefined && this.at >= 0) {
      const ago = (this.groups.length - 1 - this.at) * this.group * (this.history?.step_seconds ?? 1);
      setText(this.value, `${format(this.groups[this.at] ?? 0)}, ${ago ? `${span(ago)} ago` : "now"}`);
    } else setText(this.value, points.length ? format(points.at(-1)) : "no traffic yet");
  }

  // By the arrow keys: a point further, or ten.
  step(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10 }[event.key];
    if (!by || !this.groups?.length) return;
    event.preventDefault();
    const last = this.groups.length - 1;
    this.at = Math.max(0, Math.min(last, (this.at ?? last) + by));
    this.draw();
  }

  point(event) {
    const box = this.drawing.getBoundingClientRect();
    const { left, right } = SIZE;
    const width = Math.max(this.drawing.clientWidth, 420);
    const at = event.clientX - box.left + this.drawing.scrollLeft;
    const slot = Math.round(((at - left) / (width - left - right)) * (this.slots - 1));
    const number = this.groups.length - this.slots + slot;
    this.at = number >= 0 && number < this.groups.length ? number : undefined;
    this.draw();
  }
}

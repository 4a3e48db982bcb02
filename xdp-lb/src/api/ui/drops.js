// Packets that were not forwarded, and why, in words.

import { get } from "/ui/api.js";
import { Table, h } from "/ui/dom.js";
import { grouped, pill, rate } from "/ui/format.js";
import { sparkline } from "/ui/plot.js";

const VERDICTS = {
  drop: ["Dropped", "bad", "They ended here."],
  answer: ["Answered", "wait", "Their sender got an answer: a reset, or an ICMP error."],
  pass: ["Passed to the host", "good", "The host's own network stack got them, unchanged."],
};

export class Drops {
  constructor() {
    this.only = h("input", { type: "checkbox", id: "rising", onchange: () => this.show() });
    const part = ([verdict, [title, kind, words]]) => {
      const table = new Table(title, [
        { title: "Reason", cell: (it) => h("span", { class: "reason" }, h("code", {}, it.name), h("span", { class: "why" }, it.meaning)), sort: (it) => it.name },
        { title: "Last minute", cell: (it) => (it.points ? sparkline(it.points, { width: 90, height: 22 }) : "") },
        { title: "Now", number: true, cell: (it) => rate(it.packets_per_second), sort: (it) => it.packets_per_second },
        { title: "Packets", number: true, cell: (it) => grouped(it.packets), sort: (it) => it.packets },
      ], { key: (it) => it.name, sort: 2, descending: true, empty: "None." });
      const sum = h("span", { class: "note" });
      return { verdict, table, sum, element: h("section", { class: "panel", "aria-label": title },
        h("div", { class: "head" }, h("h2", {}, title), pill(verdict, kind), sum), h("p", { class: "note" }, words), table.element) };
    };
    this.parts = Object.entries(VERDICTS).map(part);
    this.losses = new Table("Lost after forwarding", [
      { title: "Interface", cell: (it) => it.interface },
      { title: "Cause and fix", cell: (it) => h("span", { class: "reason" }, it.cause, h("span", { class: "why" }, it.fix)) },
      { title: "Error", number: true, cell: (it) => String(it.error) },
      { title: "Packets", number: true, cell: (it) => grouped(it.packets) },
    ], { key: (it) => `${it.interface} ${it.verdict} ${it.error}` });
    this.lost = h("section", { class: "panel", "aria-label": "Lost after forwarding", hidden: true },
      h("div", { class: "head" }, h("h2", {}, "Lost after forwarding"), pill("drop", "bad")),
      h("p", { class: "note" }, "The program forwarded them, and the kernel dropped them afterwards."), this.losses.element);
    this.element = h("div", {},
      h("div", { class: "page-head" }, h("div", {}, h("h1", {}, "Packets that were not forwarded"), h("p", { class: "note" }, "Each with its reason. What was forwarded is with the services.")),
        h("div", { class: "actions" }, h("label", { for: "rising", class: "check" }, this.only, "Only what rises now"))),
      this.lost, this.parts.map((it) => it.element));
    this.counters = [];
  }

  async update() {
    const [{ counters, losses }, history] = await Promise.all([get("/v1/counters"), get("/v1/history?points=60")]);
    this.counters = counters.map((it) => ({ ...it, points: history.reasons[it.name] }));
    this.lost.hidden = !losses?.length;
    this.losses.show(losses ?? []);
    this.show();
  }

  show() {
    for (const { verdict, table, sum } of this.parts) {
      const all = this.counters.filter((it) => it.verdict === verdict);
      table.show(all.filter((it) => (this.only.checked ? it.packets_per_second > 0 : it.packets > 0)));
      const now = all.reduce((total, it) => total + it.packets_per_second, 0);
      sum.textContent = `${rate(now)} now`;
    }
  }
}

// What happens, as it happens.

import { h, refresh } from "/ui/dom.js";
import { pill, time } from "/ui/format.js";

const where = (event) => (event.service
  ? h("a", { href: `#/services/${encodeURIComponent(event.service)}` }, event.service)
  : h("span", {}, event.interface ?? ""));

function words(event) {
  switch (event.event) {
    case "backend": return [h("code", {}, event.address), " ", event.before && `${event.before} → `, pill(event.state), ` ${event.reason}`];
    case "weight": return [h("code", {}, event.address), ` ${Math.round(event.ratio * 100)} % of its weight ${event.weight}: ${event.reason}`];
    case "service": return [`${event.kind}: ${event.changes.join("; ")}`];
    case "node": return [event.admin === "draining" ? pill("drained", "wait") : pill("enabled", "good"), " This node"];
    case "interface": return [event.up ? pill("up", "good") : pill("down", "bad")];
    case "reload": return [`The config file was reloaded: ${event.changes} ${event.changes === 1 ? "change" : "changes"}`];
    case "restored": return [event.what];
    case "trouble": return event.trouble ? [pill("trouble", "bad"), ` ${event.trouble}`] : [pill("recovered", "good"), " All troubles are over."];
    case "lost": return [event.events === null ? "Events may be missing here." : `${event.events} events are missing here.`];
    default: return [JSON.stringify(event)];
  }
}

export const line = (event) => h("li", {}, time(event.time), h("span", { class: "kind" }, event.event), where(event), h("span", { class: "what" }, words(event)));

const MOST = 500;

export class Events {
  constructor(app) {
    this.app = app;
    this.filter = h("input", { type: "search", id: "event-filter", placeholder: "A service, address, kind or word", oninput: () => this.update() });
    this.list = h("ol", { class: "events", "aria-live": "off" });
    this.element = h("div", {},
      h("div", { class: "page-head" }, h("div", {}, h("h1", {}, "Events"), h("p", { class: "note" }, "The latest first. The list goes on while the page is open.")),
        h("div", { class: "actions" }, h("label", { for: "event-filter", class: "unseen" }, "Filter"), this.filter)),
      h("section", { class: "panel", "aria-label": "Events" }, this.list));
  }

  async update() {
    const terms = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (event) => {
      const text = JSON.stringify(event).toLowerCase();
      return terms.every((term) => text.includes(term));
    };
    const shown = this.app.events.filter(fits).slice(-MOST).reverse();
    refresh(this.list, shown.map((event) => event.id), () => (shown.length ? shown.map(line) : h("li", { class: "empty" }, "No event yet.")));
  }
}

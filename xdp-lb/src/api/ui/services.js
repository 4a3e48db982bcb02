// All services.

import { get } from "/ui/api.js";
import { Table, h } from "/ui/dom.js";
import { bits, meter, rate, stateOfService } from "/ui/format.js";

export class Services {
  constructor() {
    this.filter = h("input", { type: "search", id: "filter", placeholder: "Name, VIP, protocol or mode", oninput: () => this.show() });
    this.table = new Table("Services", [
      { title: "Service", cell: (it) => h("a", { href: `#/services/${encodeURIComponent(it.name)}` }, it.name), sort: (it) => it.name },
      { title: "State", cell: stateOfService, sort: (it) => stateOfService(it).textContent },
      { title: "VIP", cell: (it) => h("code", {}, it.vip), sort: (it) => it.vip },
      { title: "Protocol", cell: (it) => it.protocol, sort: (it) => it.protocol },
      { title: "Mode", cell: (it) => it.mode, sort: (it) => it.mode },
      { title: "Serving", cell: (it) => h("span", { class: "full" }, meter(it.backends ? it.backends_serving / it.backends : 0, it.backends_serving ? "" : "bad"), `${it.backends_serving} of ${it.backends}`), sort: (it) => (it.backends ? it.backends_serving / it.backends : 0) },
      { title: "New flows", number: true, cell: (it) => rate(it.traffic.new_flows_per_second), sort: (it) => it.traffic.new_flows_per_second },
      { title: "Packets", number: true, cell: (it) => rate(it.traffic.packets_per_second), sort: (it) => it.traffic.packets_per_second },
      { title: "Bits", number: true, cell: (it) => bits(it.traffic.bytes_per_second), sort: (it) => it.traffic.bytes_per_second },
    ], { key: (it) => it.name, sort: 0, empty: "No service matches." });
    this.element = h("div", {},
      h("div", { class: "page-head" }, h("h1", {}, "Services"), h("div", { class: "actions" }, h("label", { for: "filter", class: "unseen" }, "Filter"), this.filter)),
      h("section", { class: "panel", "aria-label": "Services" }, this.table.element));
    this.services = [];
  }

  async update() {
    this.services = await get("/v1/services");
    this.show();
  }

  show() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (it) => `${it.name} ${it.vip} ${it.protocol} ${it.mode} ${it.description ?? ""}`.toLowerCase();
    this.table.show(this.services.filter((it) => words.every((word) => text(it).includes(word))));
  }
}

// One service with its backends.

import { get, servicePath } from "/ui/api.js";
import { drainBackend, drainService, enableBackend, enableService, weighBackend } from "/ui/change.js";
import { Table, h, panel, refresh } from "/ui/dom.js";
import { bits, flows, grouped, latency, meter, percent, pill, rate, span, stateOfService } from "/ui/format.js";
import { TRAFFIC } from "/ui/overview.js";
import { Plot } from "/ui/plot.js";

export class Service {
  constructor(app, name) {
    Object.assign(this, { app, name });
    this.head = h("div", { class: "page-head" });
    this.facts = h("dl", { class: "facts" });
    this.plot = new Plot("Traffic", TRAFFIC, { service: name });
    this.notes = h("div", {});
    this.options = h("dl", { class: "facts options" });
    const columns = [
      { title: "Backend", cell: (it) => h("code", {}, it.address), sort: (it) => it.address },
      { title: "State", cell: (it) => h("span", { class: "reason" }, h("span", { class: "state" }, pill(it.state), h("span", { class: "note" }, `for ${span(it.since_seconds)}`)), h("span", { class: "why" }, it.reason)), sort: (it) => it.state },
      { title: "Weight", number: true, cell: (it) => (it.weight_ratio === 1 ? String(it.weight) : `${percent(it.weight_ratio)} of ${it.weight}`), sort: (it) => it.weight * it.weight_ratio },
      { title: "Share", cell: (it) => h("span", { class: "full" }, meter(it.share), percent(it.share)), sort: (it) => it.share },
      { title: "Flows", number: true, cell: flows, sort: (it) => it.flows },
      { title: "New flows", number: true, cell: (it) => rate(it.traffic.new_flows_per_second), sort: (it) => it.traffic.new_flows_per_second },
      { title: "Resets", number: true, cell: (it) => rate(it.traffic.resets_per_second), sort: (it) => it.traffic.resets_per_second },
      { title: "Packets", number: true, cell: (it) => rate(it.traffic.packets_per_second), sort: (it) => it.traffic.packets_per_second },
      { title: "Bits", number: true, cell: (it) => bits(it.traffic.bytes_per_second), sort: (it) => it.traffic.bytes_per_second },
      { title: "Check", number: true, cell: (it) => latency(it.check_latency_seconds), sort: (it) => it.check_latency_seconds ?? -1 },
    ];
    if (app.isAdmin) columns.push({ title: "Change", cell: (it) => this.buttons(it) });
    this.table = new Table(`Backends of ${name}`, columns, { key: (it) => it.address, sort: 0, empty: "This service has no backends." });
    this.element = h("div", {}, this.head, this.notes, this.plot.element, panel("Backends", this.table.element),
      panel("Service", this.facts, h("details", {}, h("summary", {}, "All options"), this.options)));
  }

  buttons(backend) {
    const again = () => this.update();
    const drains = backend.admin === "draining";
    // As it is when the button is pressed, not when it was made.
    const now = () => this.detail.backends.find((it) => it.address === backend.address) ?? backend;
    return h("span", { class: "buttons" },
      h("button", { type: "button", class: "small", "aria-label": `${drains ? "Enable" : "Drain"} ${backend.address}`, onclick: () => (drains ? enableBackend(this.name, now(), again) : drainBackend(this.name, now(), this.detail.backends, again)) }, drains ? "Enable" : "Drain"),
      h("button", { type: "button", class: "small", "aria-label": `Weight of ${backend.address}`, onclick: () => weighBackend(this.name, now(), this.detail.backends, again) }, "Weight"));
  }

  async update() {
    const [detail] = await Promise.all([get(servicePath(this.name)), this.plot.update()]);
    this.detail = detail;
    const { service, options, backends } = detail;
    const drained = service.admin === "draining";
    refresh(this.head, [drained, service.leaving, service.panic, service.backends_serving, service.backends, this.app.isAdmin], () => [
      h("div", {}, h("p", { class: "crumbs" }, h("a", { href: "#/services" }, "Services")),
        h("h1", {}, service.name, " ", stateOfService(service)),
        h("p", { class: "note" }, h("code", {}, service.vip), ` ${service.protocol}, ${service.mode}, ${service.backends_serving} of ${service.backends} backends take new flows`,
          service.description && h("span", {}, ` – ${service.description}`))),
      h("div", { class: "actions" }, this.app.isAdmin && h("button", { type: "button", class: drained ? "primary" : "quiet",
        onclick: () => (drained ? enableService : drainService)(this.detail.service, () => this.update()) }, drained ? "Enable the service" : "Drain the service")),
    ]);
    const notes = [
      service.panic && ["bad", `Panic: backends that are down take new flows: ${service.panic}`],
      service.discovery?.trouble && ["bad", `Discovery has been failing: ${service.discovery.trouble}`],
      service.discovery?.warning && ["wait", service.discovery.warning],
      ...service.unused.map((text) => ["wait", text]),
    ].filter(Boolean);
    refresh(this.notes, notes, () => notes.map(([kind, text]) => h("p", { class: `notice ${kind}` }, text)));
    this.table.show(backends);
    const { moving, traffic } = service;
    const facts = {
      "Total flows": grouped(traffic.new_flows),
      "From clients": `${grouped(traffic.packets_in)} packets, ${grouped(traffic.bytes_in)} bytes`,
      "To clients": `${grouped(traffic.packets_out)} packets, ${grouped(traffic.bytes_out)} bytes`,
      "Refused or reset": grouped(traffic.resets),
      Ring: service.mode !== "full-nat" && moving.moving_slots + moving.recorded_slots > 0
        ? `${grouped(service.ring_slots)} slots: ${grouped(moving.moving_slots)} rebalancing, ${grouped(moving.recorded_slots)} with flows of their previous backend`
        : `${grouped(service.ring_slots)} slots, settled`,
      Discovery: service.discovery ? `${service.discovery.source}: ${service.discovery.found} found` : "none",
      Origin: service.origin,
    };
    const list = (pairs) => Object.entries(pairs).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)));
    refresh(this.facts, facts, () => list(facts));
    const words = (value) => (value === null ? "none" : typeof value === "object" ? JSON.stringify(value) : String(value));
    refresh(this.options, options, () => list(Object.fromEntries(Object.entries(options).map(([key, value]) => [key, words(value)]))));
  }
}

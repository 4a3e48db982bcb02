// The node on one screen.

import { get } from "/ui/api.js";
import { setNode } from "/ui/change.js";
import { Table, h, panel, refresh, setText } from "/ui/dom.js";
import { bits, grouped, meter, percent, pill, rate, scaled, span, stateOfService } from "/ui/format.js";
import { Plot, sparkline } from "/ui/plot.js";
import { line } from "/ui/events.js";

export const TRAFFIC = [
  { title: "Bits", key: "bytes_per_second", scale: 8, format: (value) => scaled(value, "bit/s") },
  { title: "Packets", key: "packets_per_second", format: rate },
  { title: "New flows", key: "new_flows_per_second", format: rate },
  { title: "Resets", key: "resets_per_second", format: rate },
];

function tile(title) {
  const value = h("strong", {});
  const note = h("span", { class: "note" });
  const spark = h("div", { class: "sparkbox" });
  return { value, note, spark, element: h("div", { class: "tile" }, h("span", { class: "title" }, title), value, note, spark) };
}

export class Overview {
  constructor(app) {
    this.app = app;
    this.tiles = { services: tile("Services"), backends: tile("Backends"), bits: tile("Traffic"), packets: tile("Packets"), flows: tile("New flows"), dropped: tile("Dropped") };
    this.plot = new Plot("Traffic of all services", TRAFFIC, {});
    this.troubles = h("div", {});
    this.head = h("div", { class: "page-head" });
    this.interfaces = new Table("Interfaces", [
      { title: "Interface", cell: (it) => it.name },
      { title: "Program", cell: (it) => (it.mode ? pill(it.mode, it.mode.includes("generic") ? "wait" : "good") : pill("not attached", "bad")) },
      { title: "Link", cell: (it) => (it.up ? pill("up", "good") : pill("down", "bad")) },
      { title: "Note", cell: (it) => it.note ?? "" },
    ], { key: (it) => it.name, empty: "No interface is configured." });
    this.vips = new Table("VIPs", [
      { title: "VIP", cell: (it) => it.address },
      { title: "State", cell: (it) => pill(it.state, { present: "good", withdrawn: "wait" }[it.state] ?? "bad") },
      { title: "Interface", cell: (it) => it.interface ?? "–" },
      { title: "Note", cell: (it) => it.note ?? (it.interface && !it.added_by_daemon ? "not added by the daemon" : "") },
    ], { key: (it) => it.address });
    this.services = new Table("Services that need attention", [
      { title: "Service", cell: (it) => h("a", { href: `#/services/${encodeURIComponent(it.name)}` }, it.name) },
      { title: "State", cell: stateOfService },
      { title: "Serving", number: true, cell: (it) => `${it.backends_serving} of ${it.backends}` },
      { title: "Why", cell: (it) => it.panic ?? it.discovery?.trouble ?? it.unused[0] ?? "" },
    ], { key: (it) => it.name, empty: "All services have all of their backends.", most: 10 });
    this.tables = new Table("Tables", [
      { title: "Table", cell: (it) => it.name.replace("_", " ") },
      { title: "In use", number: true, cell: (it) => grouped(it.used) },
      { title: "Size", number: true, cell: (it) => grouped(it.size) },
      { title: "Full", cell: (it) => h("span", { class: "full" }, meter(it.used / it.size, it.used / it.size > 0.8 ? "bad" : ""), percent(it.used / it.size)) },
    ], { key: (it) => it.name });
    this.events = h("ol", { class: "events" });
    this.vipPanel = panel("VIPs", this.vips.element);
    this.element = h("div", {}, this.head, this.troubles,
      h("div", { class: "tiles" }, Object.values(this.tiles).map((it) => it.element)),
      this.plot.element,
      h("div", { class: "columns" },
        panel("Services that need attention", this.services.element),
        panel("Interfaces", this.interfaces.element),
        this.vipPanel,
        panel("Latest events", this.events, h("p", {}, h("a", { href: "#/events" }, "All events"))),
        panel("Tables", this.tables.element)));
  }

  async update() {
    const [status, services, history] = await Promise.all([
      get("/v1/status?brief=true"), get("/v1/services"), get("/v1/history?points=60"), this.plot.update()]);
    this.show(status, services, history);
  }

  show(status, services, history) {
    const drained = status.admin === "draining";
    refresh(this.head, [status.host, status.version, status.uptime_seconds, drained, this.app.isAdmin], () => [
      h("div", {}, h("h1", {}, status.host || "This node"),
        h("p", { class: "note" }, `xdp-lb ${status.version}, up ${span(status.uptime_seconds)}`)),
      h("div", { class: "actions" }, drained && pill("drained", "wait"),
        this.app.isAdmin && h("button", { type: "button", class: drained ? "primary" : "quiet", onclick: () => setNode(drained ? "enabled" : "draining", status.vips, () => this.update()) }, drained ? "Enable the node" : "Drain the node")),
    ]);
    refresh(this.troubles, status.troubles, () => status.troubles.map((trouble) => h("div", { class: "trouble", role: "alert" },
      h("strong", {}, "Trouble"), h("p", {}, trouble.message), h("span", { class: "note" }, `for ${span(trouble.since_seconds)}`))));
    const serving = services.filter((it) => it.backends_serving > 0).length;
    const backends = services.reduce((sum, it) => sum + it.backends, 0);
    const up = services.reduce((sum, it) => sum + it.backends_serving, 0);
    const sum = (key) => services.reduce((total, it) => total + it.traffic[key], 0);
    const put = (name, value, note, points, bad) => {
      const { value: strong, note: small, spark, element } = this.tiles[name];
      setText(strong, value);
      setText(small, note);
      element.classList.toggle("bad", Boolean(bad));
      if (points) spark.replaceChildren(sparkline(points));
    };
    put("services", grouped(services.length), serving === services.length ? "all serve" : `${services.length - serving} without a backend`, null, serving < services.length);
    put("backends", `${grouped(up)} of ${grouped(backends)}`, up === backends ? "all take new flows" : `${backends - up} take no new flows`, null, up === 0 && backends > 0);
    put("bits", bits(sum("bytes_per_second")), "both directions", history.bytes_per_second);
    put("packets", rate(sum("packets_per_second")), "both directions", history.packets_per_second);
    put("flows", rate(sum("new_flows_per_second")), `${rate(sum("resets_per_second"))} refused or reset`, history.new_flows_per_second);
    const drops = Object.entries(history.reasons).filter(([name]) => this.app.verdicts[name] === "drop").map(([, points]) => points);
    const dropped = Array.from({ length: 60 }, (_, at) => drops.reduce((total, points) => total + (points.at(at - 60) ?? 0), 0));
    put("dropped", rate(status.dropped_per_second), `${grouped(status.dropped_packets)} in total`, dropped);
    this.services.show(services.filter((it) => it.backends_serving < it.backends || it.panic || it.admin === "draining" || it.leaving || it.discovery?.trouble || it.unused.length));
    this.interfaces.show(status.interfaces);
    this.vipPanel.hidden = status.vips.length === 0;
    this.vips.show(status.vips);
    this.tables.show(status.tables);
    const events = this.app.events.slice(-8).reverse();
    refresh(this.events, events.map((event) => event.id), () => (events.length ? events.map(line) : h("li", { class: "empty" }, "Nothing has happened yet.")));
  }
}

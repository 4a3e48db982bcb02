// Where a flow is, among those that are tracked; and, for administrators, where any flow would go.

import { get, send } from "/ui/api.js";
import { Table, h } from "/ui/dom.js";
import { grouped, pill, span } from "/ui/format.js";

const VERDICTS = { forward: "good", pass: "wait", answer: "wait", drop: "bad" };
const STAGES = { established: "good", "half-open": "wait", closing: "wait" };

export class Flows {
  constructor(app) {
    const field = (id, label, properties) => h("div", { class: "field" }, h("label", { for: id }, label), h("input", { id, name: id, autocomplete: "off", spellcheck: "false", ...properties }));
    this.form = h("form", { class: "search", onsubmit: (event) => { event.preventDefault(); this.search(); } },
      field("client", "Client", { placeholder: "192.0.2.2" }),
      field("service", "Service", { placeholder: "any", list: "service-names" }),
      field("backend", "Backend", { placeholder: "198.51.100.11:8080" }),
      h("datalist", { id: "service-names" }),
      h("button", { class: "primary" }, "Find"));
    this.said = h("p", { class: "note", role: "status" }, "");
    this.table = new Table("Tracked flows", [
      { title: "Client", cell: (it) => h("code", {}, it.client) },
      { title: "VIP", cell: (it) => h("code", {}, it.vip) },
      { title: "Service", cell: (it) => h("a", { href: `#/services/${encodeURIComponent(it.service)}` }, it.service) },
      { title: "Backend", cell: (it) => h("code", {}, it.backend) },
      { title: "Stage", cell: (it) => pill(it.stage, STAGES[it.stage]) },
      { title: "Idle", number: true, cell: (it) => span(it.idle_seconds) },
      { title: "Source seen", cell: (it) => h("code", {}, it.seen_from) },
    ], { key: (it) => `${it.protocol} ${it.client} ${it.vip}`, empty: "No tracked flow matches." });
    this.table.element.hidden = true;
    this.question = h("form", { class: "search", onsubmit: (event) => { event.preventDefault(); this.explain(); } },
      field("from", "Client and port", { placeholder: "192.0.2.2:1234", required: true }),
      field("to", "VIP and port", { placeholder: "203.0.113.10:80", required: true }),
      h("div", { class: "field" }, h("label", { for: "protocol" }, "Protocol"), h("select", { id: "protocol", name: "protocol" }, h("option", {}, "tcp"), h("option", {}, "udp"))),
      h("button", { class: "primary" }, "Explain"));
    this.answer = h("div", { role: "status" });
    this.element = h("div", {},
      h("div", { class: "page-head" }, h("div", {}, h("h1", {}, "Find a flow"), h("p", { class: "note" },
        "Tracked are the flows of services in mode full-nat or with flow_tracking = \"always\", and those whose slot has moved recently. All others follow the ring, and need no record."))),
      app.isAdmin && h("section", { class: "panel", "aria-label": "Where would it go?" }, h("h2", {}, "Where would it go?"),
        h("p", { class: "note" }, "The datapath runs over a new packet of this flow, and tells each of its decisions. Nothing is sent or changed."), this.question, this.answer),
      h("section", { class: "panel", "aria-label": "Find a flow" }, h("h2", {}, "Tracked flows"), this.form, this.said, this.table.element));
  }

  async update() {
    if (this.named) return;
    this.named = true;
    const services = await get("/v1/services");
    this.form.querySelector("datalist").replaceChildren(...services.map((it) => h("option", { value: it.name })));
  }

  async explain() {
    const value = (name) => this.question.elements[name].value.trim();
    const protocol = value("protocol");
    const request = { client: value("from"), vip: value("to"), protocol, ...(protocol === "udp" && { flags: [] }) };
    try {
      const told = await send("POST", "/v1/explain", request);
      this.answer.replaceChildren(
        h("p", { class: "told" }, pill(told.verdict, VERDICTS[told.verdict]), h("strong", {}, told.message)),
        h("dl", { class: "steps" }, told.steps.map(({ step, finding }) => h("div", {}, h("dt", {}, step), h("dd", {}, finding)))));
    } catch (error) {
      this.answer.replaceChildren(h("p", { class: "notice bad" }, error.message));
    }
  }

  async search() {
    const query = new URLSearchParams({ limit: "100" });
    for (const name of ["client", "service", "backend"]) {
      const value = this.form.elements[name].value.trim();
      if (value) query.set(name, value);
    }
    this.said.textContent = "Looking…";
    try {
      const { matching, flows } = await get(`/v1/flows?${query}`);
      this.said.textContent = `${grouped(matching)} ${matching === 1 ? "flow matches" : "flows match"}${matching > flows.length ? `; the first ${flows.length} are shown` : ""}.`;
      this.table.element.hidden = false;
      this.table.show(flows);
    } catch (error) {
      this.said.textContent = error.message;
    }
  }
}

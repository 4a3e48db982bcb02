// Changes, for administrators: each says first what it will do.

import { backendPath, send, servicePath } from "/ui/api.js";
import { h, toast } from "/ui/dom.js";
import { flows, grouped, percent, rate } from "/ui/format.js";

// Asks in a dialog; returns whether it was confirmed, or the input's value.
function ask(title, lines, action, input) {
  return new Promise((resolve) => {
    const heading = h("h2", { id: "dialog-title" }, title);
    const effect = h("ul", { class: "effect" });
    const say = (texts) => effect.replaceChildren(...texts.map((text) => h("li", {}, text)));
    say(typeof lines === "function" ? lines(input?.value) : lines);
    const field = input && h("input", { type: "number", id: "dialog-value", min: "0", max: "65535", step: "1", required: true, value: input.value,
      oninput: (event) => say(lines(event.target.value)) });
    const form = h("form", { method: "dialog" }, heading,
      input && h("label", { for: "dialog-value" }, input.label), field, effect,
      h("div", { class: "buttons" },
        h("button", { value: "no", formnovalidate: true, class: "quiet" }, "Cancel"),
        h("button", { value: "yes", class: "primary" }, action)));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
    dialog.addEventListener("close", () => {
      const confirmed = dialog.returnValue === "yes";
      dialog.remove();
      resolve(confirmed ? (field ? Number(field.value) : true) : false);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

async function change(path, document, after) {
  try {
    const outcome = await send("PATCH", path, document);
    toast(outcome.message, outcome.trouble ? "bad" : "good");
    if (outcome.trouble) toast(`Forwarding is in trouble: ${outcome.trouble}`, "bad");
    await after();
  } catch (error) {
    toast(error.message, "bad");
  }
}

const takesFlows = (backend) => ["up", "panic", "half-open"].includes(backend.state);

function remaining(backends, without) {
  const left = backends.filter((backend) => takesFlows(backend) && backend.address !== without.address);
  if (!takesFlows(without)) return ["It takes no new flows now."];
  if (left.length === 0) return ["No other backend takes new flows: clients of this service will be refused or wait."];
  return [`Its ${percent(without.share)} of new flows goes to ${left.length === 1 ? "the 1 other backend" : `the ${left.length} other backends`} that are up.`];
}

export async function drainBackend(service, backend, backends, after) {
  const count = flows(backend);
  const now = count === "–" ? "Its established flows stay until they end." : `Its ${count} ${count === "1" ? "flow stays until it ends" : "flows stay until they end"}.`;
  const lines = [`${backend.address} gets no new flows.`, now, ...remaining(backends, backend), "This survives restarts, until it is enabled again."];
  if (await ask(`Drain ${backend.address} of ${service}?`, lines, "Drain")) await change(backendPath(service, backend.address), { admin: "draining" }, after);
}

export async function enableBackend(service, backend, after) {
  const lines = [`${backend.address} gets new flows again, once its health check succeeds.`, "Established flows stay where they are."];
  if (await ask(`Enable ${backend.address} of ${service}?`, lines, "Enable")) await change(backendPath(service, backend.address), { admin: "enabled" }, after);
}

export async function weighBackend(service, backend, backends, after) {
  const others = backends.filter((other) => takesFlows(other) && other.address !== backend.address);
  const sum = others.reduce((total, other) => total + other.weight * (other.weight_ratio ?? 1), 0);
  const lines = (value) => {
    const weight = Number(value);
    if (value === "" || !(weight >= 0 && weight <= 65535)) return ["Write a number from 0 to 65,535."];
    const share = weight + sum === 0 ? 0 : weight / (weight + sum);
    const effect = weight === 0 ? "It gets no new flows." : `It gets about ${percent(share)} of new flows; now it gets ${percent(backend.share)}.`;
    return [takesFlows(backend) ? effect : `It takes no new flows now (${backend.state}); once it does, about ${percent(share)}.`, "Established flows stay where they are."];
  };
  const weight = await ask(`Weight of ${backend.address} of ${service}`, lines, "Change the weight", { label: "Weight, relative to the other backends", value: String(backend.weight) });
  if (weight !== false) await change(backendPath(service, backend.address), { weight }, after);
}

export async function drainService(service, after) {
  const lines = [
    `${service.name} gets no new flows: clients that connect to ${service.vip} are refused or wait.`,
    `Now it gets ${rate(service.traffic.new_flows_per_second)} new flows. Established ones stay until they end.`,
    `All of its ${grouped(service.backends)} backends drain. This survives restarts, until it is enabled again.`,
  ];
  if (await ask(`Drain the service ${service.name}?`, lines, "Drain")) await change(servicePath(service.name), { admin: "draining" }, after);
}

export async function enableService(service, after) {
  const lines = [`${service.name} gets new flows again.`, "Backends that were drained by themselves stay drained."];
  if (await ask(`Enable the service ${service.name}?`, lines, "Enable")) await change(servicePath(service.name), { admin: "enabled" }, after);
}

export async function setNode(admin, vips, after) {
  const drains = admin === "draining";
  const lines = drains
    ? [`The VIPs that the daemon added are withdrawn from this host${vips.length ? ` (${vips.length})` : ""}: clients go elsewhere.`, "Flows whose packets still arrive continue.", "This survives restarts, until the node is enabled again."]
    : ["The VIPs come back to this host, and clients with them."];
  if (await ask(drains ? "Drain this whole node?" : "Enable this node?", lines, drains ? "Drain the node" : "Enable")) await change("/v1/node", { admin }, after);
}

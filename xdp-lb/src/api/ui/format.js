// Numbers and states as people read them.

import { h } from "/ui/dom.js";

const STEPS = ["", "k", "M", "G", "T"];

// 1234 -> "1.23 k"
export function scaled(value, unit = "") {
  let step = 0;
  while (value >= 999.5 && step + 1 < STEPS.length) {
    value /= 1000;
    step += 1;
  }
  const digits = value >= 99.95 || Number.isInteger(value) ? 0 : value >= 9.995 ? 1 : 2;
  const number = value.toFixed(value < 0.005 ? 0 : digits);
  const name = STEPS[step] + unit;
  return name && !name.startsWith("/") ? `${number} ${name}` : number + name;
}

export const rate = (value) => scaled(value ?? 0, "/s");
export const bits = (bytes) => scaled((bytes ?? 0) * 8, "bit/s");
export const grouped = (value) => Number(value).toLocaleString("en");
export const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

export function span(seconds) {
  const pad = (value) => String(value).padStart(2, "0");
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${pad(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${pad(Math.floor((seconds % 3600) / 60))} m`;
  return `${Math.floor(seconds / 86400)} d ${pad(Math.floor((seconds % 86400) / 3600))} h`;
}

export function latency(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  return seconds < 1 ? `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms` : `${seconds.toFixed(1)} s`;
}

const KINDS = {
  up: "good", draining: "wait", checking: "wait", standby: "wait", "half-open": "wait",
  down: "bad", unresolved: "bad", panic: "bad", ejected: "bad",
};
const SIGNS = { good: "●", wait: "◐", bad: "▲" };

// A state in its colour, with a sign, for those who do not see the colour.
export function pill(text, kind = KINDS[text] ?? "wait") {
  return h("span", { class: `pill ${kind}` }, h("span", { "aria-hidden": "true" }, SIGNS[kind]), text);
}

export function stateOfService(service) {
  if (service.leaving) return pill("leaving", "wait");
  if (service.admin === "draining") return pill("drained", "wait");
  if (service.panic) return pill("panic", "bad");
  if (service.backends_serving === 0) return pill("down", "bad");
  if (service.backends_serving < service.backends) return pill("degraded", "wait");
  return pill("up", "good");
}

// A bar for a part of a whole.
export function meter(part, kind = "") {
  const width = Math.max(0, Math.min(1, part)) * 100;
  const bar = h("span", { class: `meter ${kind}`, "aria-hidden": "true" }, h("span"));
  bar.firstChild.style.width = `${width}%`;
  return bar;
}

export function flows(backend) {
  if (backend.flows_complete) return grouped(backend.flows);
  return backend.flows ? `${grouped(backend.flows)}+` : "–";
}

export const time = (text) => {
  const date = new Date(text);
  return h("time", { datetime: text, title: date.toLocaleString() }, date.toLocaleTimeString());
};

// The page: which part is shown, how often it is renewed, and who looks.

import { Refused, begin, get, watch } from "/ui/api.js";
import { h, setText } from "/ui/dom.js";
import { Drops } from "/ui/drops.js";
import { Events } from "/ui/events.js";
import { Flows } from "/ui/flows.js";
import { Overview } from "/ui/overview.js";
import { Service } from "/ui/service.js";
import { Services } from "/ui/services.js";

const EVERY = 1000;
const MOST_EVENTS = 1000;

const app = { isAdmin: false, events: [], verdicts: {} };
const main = document.getElementById("main");
const live = document.getElementById("live");
let view;
let timer;

function viewOf(hash) {
  const [page, name] = hash.replace(/^#\/?/, "").split("/");
  switch (page) {
    case "": return new Overview(app);
    case "services": return name ? new Service(app, decodeURIComponent(name)) : new Services();
    case "drops": return new Drops();
    case "events": return new Events(app);
    case "flows": return new Flows(app);
    default: return { element: h("p", { class: "empty" }, "There is no such page."), update: async () => {} };
  }
}

function say(kind, text) {
  live.className = `live ${kind}`;
  setText(live, text);
}

async function renew() {
  clearTimeout(timer);
  const shown = view;
  if (!document.hidden) {
    try {
      await shown.update();
      if (shown === view) {
        say("good", "live");
        if (!shown.element.isConnected) main.replaceChildren(shown.element);
      }
    } catch (error) {
      if (error instanceof Refused && [401, 403].includes(error.status)) return stop(error.message);
      if (error instanceof Refused && error.status === 404 && !shown.element.isConnected) {
        main.replaceChildren(h("p", { class: "empty" }, error.message));
      }
      say("bad", error instanceof Refused ? error.message : "no answer from the daemon, retrying");
    }
  }
  if (shown === view) timer = setTimeout(renew, EVERY);
}

function go() {
  view = viewOf(location.hash);
  const page = location.hash.replace(/^#\/?/, "").split("/")[0];
  for (const link of document.querySelectorAll("#pages a")) {
    const isThis = link.getAttribute("href").replace(/^#\/?/, "") === page;
    if (isThis) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  renew();
}

// Ends with a word on how to go on.
function stop(message) {
  clearTimeout(timer);
  view = undefined;
  say("bad", "stopped");
  main.replaceChildren(h("section", { class: "panel stopped" }, h("h1", {}, "This page cannot ask the daemon"), h("p", {}, message)));
}

function followEvents(last) {
  const take = (event) => {
    app.events.push(event);
    app.events.splice(0, Math.max(0, app.events.length - MOST_EVENTS));
  };
  watch(take, () => {}, new AbortController().signal, last);
}

function chooseTheme() {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const show = () => setText(button, isDark() ? "☀" : "☾");
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    show();
  });
  dark.addEventListener("change", show);
  show();
}

async function start() {
  chooseTheme();
  say("wait", "connecting");
  try {
    await begin();
    const [caller, { counters }, { events }] = await Promise.all([get("/v1/whoami"), get("/v1/counters"), get("/v1/events?limit=200")]);
    app.isAdmin = caller.admin;
    app.events = events;
    app.verdicts = Object.fromEntries(counters.map((it) => [it.name, it.verdict]));
    setText(document.getElementById("caller"), `${caller.name}${caller.admin ? "" : ", may look only"}`);
  } catch (error) {
    return stop(error.message);
  }
  followEvents(app.events.at(-1)?.id);
  addEventListener("hashchange", go);
  document.addEventListener("visibilitychange", () => { if (!document.hidden && view) renew(); });
  go();
}

start();

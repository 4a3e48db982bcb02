// Does with a browser what it reads, a line of JSON at a time, and answers each with a line of JSON.

import { createInterface } from "node:readline";
import { chromium } from "playwright-core";
import axe from "axe-core";

const TIMEOUT = 20_000;
const problems = [];
let browser;
let context;
let page;

async function open({ url, width = 1280, height = 900, dark = false, scale = 1, certPath, keyPath }) {
  await context?.close();
  const origin = new URL(url).origin;
  context = await browser.newContext({
    viewport: { width, height }, colorScheme: dark ? "dark" : "light", deviceScaleFactor: scale,
    ...(certPath && { ignoreHTTPSErrors: true, clientCertificates: [{ origin, certPath, keyPath }] }),
  });
  page = await context.newPage();
  page.setDefaultTimeout(TIMEOUT);
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) problems.push(`${message.type()}: ${message.text()}`); });
  page.on("pageerror", (error) => problems.push(`exception: ${error.message}`));
  page.on("requestfailed", (request) => { if (request.failure()?.errorText !== "net::ERR_ABORTED") problems.push(`failed: ${request.url()} ${request.failure()?.errorText}`); });
  await page.goto(url);
}

const found = (by) => (by.role ? page.getByRole(by.role, { name: by.name, exact: true }) : page.locator(by.css));

const commands = {
  open,
  go: ({ hash }) => page.evaluate((to) => { location.hash = to; }, hash),
  click: (by) => found(by).first().click(),
  fill: async ({ label, value }) => page.getByLabel(label, { exact: true }).fill(value),
  press: ({ key }) => page.keyboard.press(key),
  // Until the text of the page, or of an element of it, has this.
  see: ({ css = "body", text }) => page.waitForFunction(([where, what]) => document.querySelector(where)?.innerText.includes(what), [css, text]),
  gone: ({ css }) => page.waitForFunction((where) => !document.querySelector(where), css),
  text: ({ css = "main" }) => page.locator(css).first().innerText(),
  count: (by) => found(by).count(),
  attribute: ({ css, name }) => page.locator(css).first().getAttribute(name),
  focused: () => page.evaluate(() => document.activeElement?.innerText || document.activeElement?.id),
  evaluate: ({ script }) => page.evaluate(script),
  problems: () => problems.splice(0),
  screenshot: ({ file, full = false }) => page.screenshot({ path: file, fullPage: full }).then(() => null),
  // What axe-core finds against WCAG 2.1 AA and best practices.
  axe: async () => {
    // The page's policy runs no script of others: this one comes in by the debugger.
    await page.evaluate(axe.source);
    const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
    return violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => `${node.html} ${node.any[0]?.message ?? ""}`).join(" | ")}`);
  },
};

const [, , executablePath] = process.argv;
browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const { command, ...options } = JSON.parse(line);
    answer = { done: (await commands[command](options)) ?? null };
  } catch (error) {
    answer = { error: String(error.message ?? error) };
  }
  if (typeof answer.done === "object" && answer.done && !Array.isArray(answer.done)) answer.done = null;
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();

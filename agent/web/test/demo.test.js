// The page of the demo's cluster: two real agents, asked through the real controller.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { browser, dashboard, inaccessible, picture } from "./browser.js";

const PATIENCE = 60_000;
let relay, shown, page;

before(async () => {
  const socket = process.env.LARK_CONTROLLER_SOCKET;
  assert.ok(socket, "LARK_CONTROLLER_SOCKET names no controller: run this by `cargo xtask demo --page`");
  relay = await dashboard("--cluster", "--controller-socket", socket);
  shown = await browser({ colorScheme: "light", viewport: { width: 1200, height: 640 } });
  page = shown.page;
  page.setDefaultTimeout(PATIENCE);
  await page.goto(relay.url);
});

after(async () => {
  await shown?.close();
  relay?.stop();
});

const go = async (name, wanted) => {
  await page.click(`nav a[href='#/${name}']`);
  await page.waitForSelector(wanted);
};

test("the diagram shows who talks to whom, each edge once though two nodes tell of it", async () => {
  await page.waitForSelector(".badge.mtls");
  assert.equal(await page.innerText(".pulse b"), "the cluster");
  const cards = await page.$$eval("a.card", (all) => all.map((card) => card.getAttribute("aria-label")));
  assert.deepEqual(cards.sort(), ["db", "ingress", "web"].map((name) => `${name} Deployment, namespace shop, captured`));
  // Before the label it went in plaintext, and nobody saw it: no agent was asked for these pods then.
  assert.equal(await page.locator(".badge.mtls").count(), 2);
  await page.waitForSelector(".line.mtls .flow");
  await picture(page, "demo-diagram");
});

test("the table has both proved identities", async () => {
  await go("connections", "tbody tr");
  const rows = await page.$$eval("tbody tr", (all) =>
    all.map((row) => [...row.querySelectorAll(".secured, .identity")].map((cell) => cell.title || cell.textContent)),
  );
  const id = (name) => `spiffe://cluster.local/ns/shop/sa/${name}`;
  assert.deepEqual(rows.map(([, ...ids]) => ids).sort(), [
    [id("ingress"), id("db")],
    [id("ingress"), id("web")],
  ]);
  assert.equal(await page.locator("tbody .secured.mtls").count(), 2);
  await picture(page, "demo-connections");
});

test("metrics tell requests, success and latency of what nginx was asked", async () => {
  await go("metrics", ".tiles");
  await page.waitForFunction(() => {
    const row = [...document.querySelectorAll("tbody tr")].find((r) => r.textContent?.includes("web"));
    const [requests = "0", success = ""] = [...(row?.querySelectorAll(".figure") ?? [])].map((f) => f.textContent ?? "");
    return Number(requests) > 0 && success === "100 %";
  });
  await picture(page, "demo-metrics");
});

test("a workload's page has the certificate that its node holds", async () => {
  await go("diagram", "a.card");
  await page.locator("a.card[href$='%2Fweb']").focus();
  await page.keyboard.press("Enter");
  await page.waitForSelector(".policies, .block:has-text('Policies that select it') .empty");
  const text = await page.innerText("main");
  for (const words of ["spiffe://cluster.local/ns/shop/sa/web", "On node two", "valid", "Expires in", "shop/ingress"]) {
    assert.ok(text.includes(words), `${words} is not in: ${text}`);
  }
  assert.match(text, /State\s+● captured/);
  await picture(page, "demo-workload");
});

test("health has both nodes and nothing to complain about", async () => {
  await go("health", "tbody .verdict");
  assert.match(await page.innerText(".lead"), /All is well[\s\S]*2 nodes/);
  assert.deepEqual(await inaccessible(page), []);
  await picture(page, "demo-health");
  assert.deepEqual(shown.complaints, []);
});

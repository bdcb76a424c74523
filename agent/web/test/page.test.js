// The page in a browser, by `lark dashboard`, of an agent that tells of 500 workloads.

import assert from "node:assert/strict";
import { readFileSync, rmSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { serve } from "./agent.js";
import { browser, dashboard, directory, inaccessible, picture } from "./browser.js";
import { world } from "./world.js";

const WORKLOADS = 500;
/** How long a busy machine may take for what takes a second here. */
const PATIENCE = 30_000;

const place = directory();
const socket = join(place, "admin.sock");
const made = world(WORKLOADS);
let endAgent, relay, shown;
/** The page that all tests walk on. */
let page;

before(async () => {
  endAgent = await serve(socket, made);
  relay = await dashboard("--admin-socket", socket);
  shown = await browser({ colorScheme: "light", reducedMotion: "reduce" });
  page = shown.page;
  page.setDefaultTimeout(PATIENCE);
});

after(async () => {
  await shown?.close();
  relay?.stop();
  endAgent?.();
  rmSync(place, { recursive: true, force: true });
});

const secret = () => relay.url.split("#")[1];

function get(path, headers) {
  const { port } = new URL(relay.url);
  return new Promise((done, failed) => {
    const asked = request({ port, host: "127.0.0.1", path, headers: { host: `127.0.0.1:${port}`, ...headers } });
    asked.on("error", failed);
    asked.on("response", (response) => {
      let body = "";
      response.on("data", (data) => (body += data));
      response.on("end", () => done({ status: response.statusCode, headers: response.headers, body }));
    });
    asked.end();
  });
}

test("nobody but whoever started it is told anything", async () => {
  const bearer = { authorization: `Bearer ${secret()}` };
  const edges = await get("/api/v1/edges", bearer);
  assert.equal(edges.status, 200);
  assert.equal(JSON.parse(edges.body)[0].node, "node-a");
  for (const [headers, status] of [
    [{}, 401],
    [{ authorization: `Bearer ${"0".repeat(64)}` }, 401],
    [{ ...bearer, host: "lark.example" }, 421],
    [{ ...bearer, origin: "http://lark.example" }, 403],
    [{ ...bearer, "sec-fetch-site": "cross-site" }, 403],
  ]) {
    const refused = await get("/api/v1/edges", headers);
    assert.equal(refused.status, status, JSON.stringify(headers));
    assert.ok(!refused.body.includes("shop"), refused.body);
  }
  for (const path of ["/api/metrics", "/api/v1/nothing", "/api/v1/edges/..", "/../Cargo.toml"]) {
    assert.equal((await get(path, bearer)).status, 404, path);
  }
});

test("nothing is loaded but from the page itself, and no script or style stands in it", async () => {
  for (const path of ["/", "/page.js", "/api/about"]) {
    const policy = (await get(path, {})).headers["content-security-policy"];
    for (const part of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"]) {
      assert.ok(policy.split("; ").includes(part), `${path}: ${policy}`);
    }
    assert.ok(!policy.includes("unsafe"), policy);
  }
  const elsewhere = [];
  page.on("request", (r) => r.url().startsWith(relay.url.split("#")[0]) || elsewhere.push(r.url()));
  await page.goto(relay.url);
  await page.waitForSelector(".canvas svg .closed");
  assert.ok(!page.url().includes(secret()), "the secret stays in the address");
  assert.deepEqual(elsewhere.filter((url) => !url.startsWith("blob:")), []);
});

test("500 workloads are drawn in time, by namespace, and opened one by one or all", async (t) => {
  const began = Date.now();
  await page.reload();
  await page.waitForSelector(".canvas svg .closed");
  const first = Date.now() - began;
  assert.equal(await page.locator("g.closed").count(), 26, "25 namespaces and what is outside");
  assert.equal(await page.locator("a.card").count(), 0);
  await picture(page, "500");
  await page.locator("g.closed[aria-label^='Namespace shop ']").press("Enter");
  await page.waitForFunction(() => document.querySelectorAll("a.card").length === 20);
  await picture(page, "500-one-open");
  const opened = Date.now();
  await page.getByRole("button", { name: "Expand all" }).click();
  await page.waitForFunction((all) => document.querySelectorAll("a.card").length === all, WORKLOADS);
  await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
  const all = Date.now() - opened;
  await picture(page, "500-all-open");
  for (const kind of ["mtls", "same_node", "direct", "plaintext", "denied"]) {
    assert.ok((await page.locator(`.badge.${kind}`).count()) > 0, `no ${kind} edge is drawn`);
  }
  t.diagnostic(`first picture after ${first} ms, all ${WORKLOADS} open after ${all} ms`);
  assert.ok(first < PATIENCE && all < PATIENCE, `${first} ms, ${all} ms`);
  await page.getByRole("button", { name: "Collapse all" }).click();
});

test("an edge is told by colour, sign and word, and is as thick as it is busy", async () => {
  for (const [kind, sign] of [["mtls", "√"], ["same_node", "="], ["direct", "~"], ["plaintext", "✗"], ["denied", "⊘"]]) {
    const chip = page.locator(`.chip.${kind}`);
    assert.match(await chip.innerText(), new RegExp(`^\\${sign} `));
    const signs = await page.$$eval(`.badge.${kind} text`, (all) => all.map((text) => text.textContent));
    assert.ok(signs.every((drawn) => drawn === sign), String(signs));
  }
  await page.waitForFunction(() => {
    const widths = [...document.querySelectorAll(".run")].map((run) => Number(run.getAttribute("stroke-width")));
    return Math.max(...widths) > 2 * Math.min(...widths);
  });
  const colours = await page.$$eval(".chip", (chips) => chips.map((chip) => getComputedStyle(chip).color));
  assert.equal(new Set(colours).size, 5, String(colours));
});

test("the diagram is filtered by words, by namespace and by what secures it", async () => {
  await page.getByRole("searchbox").fill("shop web");
  await page.waitForSelector("a.card[href^='#/workload/shop/'][href$='%2Fweb']");
  assert.ok((await page.locator("a.card").count()) < 60);
  await page.getByRole("searchbox").fill("");
  await page.getByRole("combobox").selectOption("payments");
  await page.waitForSelector("a.card[href^='#/workload/payments/']");
  await page.getByRole("combobox").selectOption("");
  const lines = () => page.locator(".line.mtls").count();
  assert.ok((await lines()) > 0);
  await page.locator(".chip.mtls").click();
  await page.waitForFunction(() => document.querySelectorAll(".line.mtls").length === 0);
  await page.locator(".chip.mtls").click();
});

test("everything is reached and done by the keyboard alone", async () => {
  const focused = () => page.evaluate(() => document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.textContent ?? "");
  const tabTo = async (wanted, most = 80) => {
    for (let i = 0; i < most; i++) {
      await page.keyboard.press("Tab");
      if (wanted.test(await focused())) return;
    }
    assert.fail(`Tab does not lead to ${wanted}, but to ${await focused()}`);
  };
  await page.reload();
  await page.waitForSelector(".canvas svg .closed");
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "Skip to content");
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, "solid", "where the focus is cannot be seen");
  await page.keyboard.press("Enter");
  await tabTo(/mTLS/);
  await page.keyboard.press("Space");
  assert.equal(await page.getAttribute(".chip.mtls", "aria-pressed"), "false");
  await page.keyboard.press("Space");
  await tabTo(/^Namespace .* expand$/);
  const namespace = (await focused()).split(" ")[1];
  await page.keyboard.press("Enter");
  await page.waitForSelector(`g.head[aria-label^='Namespace ${namespace} '][aria-label$=', collapse']`);
  await page.locator(`a.card[href^='#/workload/${namespace}/']`).first().focus();
  await page.keyboard.press("Enter");
  await page.waitForSelector("div.workload");
  assert.equal(await page.evaluate(() => document.activeElement?.tagName), "H1", "who follows a link is not led there");
  await page.goBack();
  await page.waitForSelector(".canvas svg .closed");
  await page.locator(".badge.denied").first().focus();
  await page.keyboard.press("Enter");
  await page.waitForSelector(".panel");
  assert.match(await page.innerText(".panel"), /policy_denied/);
  await page.keyboard.press("Escape");
  await page.waitForSelector(".panel", { state: "detached" });
  await page.locator("nav a[href='#/connections']").focus();
  await page.keyboard.press("Enter");
  await page.waitForSelector("th[aria-sort]");
  await tabTo(/^Connections[▾▴]?$/);
  await page.keyboard.press("Enter");
  await page.waitForSelector("th[aria-sort='descending']:has-text('Connections')");
  await page.keyboard.press("Enter");
  await page.waitForSelector("th[aria-sort='ascending']:has-text('Connections')");
});

test("connections have both identities, are searched, and saved as an auditor's file", async () => {
  await page.goto(`${relay.url.split("#")[0]}#/connections`);
  await page.waitForSelector("tbody tr");
  const edges = made.answers["/v1/edges"]();
  assert.match(await page.innerText(".count"), new RegExp(`^${edges.length} rows$`));
  await page.getByRole("searchbox").fill("plaintext outside");
  await page.waitForFunction(() => /^\d+ of /.test(document.querySelector(".count")?.textContent ?? ""));
  assert.ok((await page.locator("tbody .plaintext").count()) > 0);
  assert.equal(await page.locator("tbody .mtls").count(), 0);
  await page.getByRole("searchbox").fill("");
  const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Save as CSV" }).click()]);
  assert.match(file.suggestedFilename(), /^lark-connections-.*\.csv$/);
  const lines = readFileSync(await file.path(), "utf8").trimEnd().split("\r\n");
  assert.equal(lines[0], "Secured,Source,Destination,Client identity,Server identity,Connections,Open,Sent,Received,Reason");
  assert.equal(lines.length, edges.length + 1, "the file has not every row");
  assert.ok(lines.some((line) => line.startsWith("mTLS,") && line.match(/spiffe:\/\//g)?.length === 2));
  assert.ok(lines.every((line) => !/(^|,)[=+@-]/.test(line)), "a cell is a formula to spreadsheets");
  await page.getByRole("button", { name: "Open now" }).click();
  await page.waitForSelector("tbody code");
});

test("metrics show the last hour without a Prometheus", async () => {
  await page.click("nav a[href='#/metrics']");
  await page.waitForSelector(".tiles .spark");
  assert.equal(await page.locator(".tiles li").count(), 6);
  const points = await page.locator("tbody .spark .line").first().getAttribute("d");
  assert.equal(points?.split("L").length, 240);
});

test("a workload's page says who it is, until when, and why it is captured", async () => {
  const pod = made.pods.find((p) => p.state === "pending");
  assert.ok(pod);
  const path = `${encodeURIComponent(pod.namespace)}/${encodeURIComponent(pod.owner)}`;
  await page.goto(`${relay.url.split("#")[0]}#/workload/${path}`);
  await page.waitForSelector("div.workload");
  await page.waitForSelector(".policies");
  const text = await page.innerText("main");
  for (const words of [pod.identity, "pending", "no certificate yet", "lark.mesh/capture is enabled", "Who connects to it", "only-web"]) {
    assert.ok(text.includes(words), `${words} is not in: ${text}`);
  }
});

test("health names what is wrong first, and what to do", async () => {
  await page.click("nav a[href='#/health']");
  await page.waitForSelector("tbody .verdict");
  assert.match(await page.locator("tbody tr").first().innerText(), /wrong.*pending.*look at the controller's log/s);
  assert.match(await page.innerText(".nodes"), /node-a[\s\S]*0\.1\.0/);
});

test("no rule for accessible pages is broken, in light and in dark", async () => {
  // The rules look at every element: of a few workloads all kinds are there, and soon looked at.
  const few = join(place, "few.sock");
  const small = world(30);
  const [end, own] = [await serve(few, small), await dashboard("--admin-socket", few)];
  const page = await shown.context.newPage();
  await page.goto(own.url);
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    // But for colours the page is the same.
    const rule = colorScheme === "dark" ? "color-contrast" : undefined;
    for (const name of ["diagram", "connections", "metrics", "health"]) {
      await page.click(`nav a[href='#/${name}']`);
      await page.waitForSelector(name === "diagram" ? "a.card" : "tbody tr");
      await page.mouse.move(2, 2);
      assert.deepEqual(await inaccessible(page, rule), [], `${name}, ${colorScheme}`);
      await picture(page, `${name}-${colorScheme}`);
    }
    await page.goto(`${own.url.split("#")[0]}#/workload/shop/${encodeURIComponent(small.members[0].owner)}`);
    await page.waitForSelector(".policies");
    assert.deepEqual(await inaccessible(page, rule), [], `workload, ${colorScheme}`);
    await picture(page, `workload-${colorScheme}`);
  }
  await page.close();
  own.stop();
  end();
});

test("who may not see all namespaces is shown the sum of what he sees, and no counts of others", async () => {
  const socket = join(place, "tenant.sock");
  const { answers } = world(30);
  const told = {
    ...answers,
    "/v1/status": () => ({ ...answers["/v1/status"](), pods: [], connections_open: 0, withheld: true }),
    "/v1/history": () => {
      const history = answers["/v1/history"]();
      return { ...history, series: history.series.filter((series) => series.seen_by !== "node") };
    },
  };
  const all = Object.entries(told).map(([path, answer]) => [
    path.replace("/v1/", "/v1/cluster/"),
    () => [{ node: "node-a", answer: answer() }],
  ]);
  const end = await serve(socket, { answers: Object.fromEntries(all) });
  const own = await dashboard("--cluster", "--controller-socket", socket);
  const page = await shown.context.newPage();
  await page.goto(own.url);
  await page.click("nav a[href='#/health']");
  await page.waitForSelector(".nodes li");
  const node = await page.innerText(".nodes");
  assert.ok(node.includes("Version") && !node.includes("Connections") && !node.includes("Pods"), node);
  await page.click("nav a[href='#/metrics']");
  await page.waitForSelector("table.golden tbody tr");
  assert.match(await page.innerText("main"), /Requests\s+[1-9]/);
  await page.close();
  own.stop();
  end();
});

test("on a narrow screen nothing is cut off", async () => {
  await page.setViewportSize({ width: 400, height: 800 });
  for (const name of ["diagram", "connections", "metrics", "health"]) {
    await page.click(`nav a[href='#/${name}']`);
    await page.waitForSelector(name === "diagram" ? ".canvas svg" : "tbody tr");
    const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(wide <= room, `${name} is ${wide} wide`);
  }
  await picture(page, "narrow");
  await page.setViewportSize({ width: 1440, height: 900 });
});

test("without the secret of this run the page says so and shows nothing", async () => {
  const other = await shown.context.newPage();
  await other.goto(relay.url.split("#")[0]);
  await other.waitForSelector("[role=alert]");
  assert.match(await other.innerText("[role=alert]"), /open the whole address/);
  assert.equal(await other.locator(".canvas").count(), 0);
  await other.close();
});

test("an agent that does not answer is named, and what was known stays", async () => {
  await page.click("nav a[href='#/diagram']");
  endAgent();
  await page.waitForFunction(() => /no agent answers|did not answer|broke off/.test(document.querySelector("main .notice")?.textContent ?? ""));
  relay.stop();
  await page.waitForFunction(() => /is it still running/.test(document.querySelector("[role=alert]")?.textContent ?? ""));
  assert.ok((await page.locator("g.closed").count()) > 0);
});

test("the browser had nothing to complain about", () => {
  const expected = /401|net::ERR_CONNECTION_REFUSED/;
  assert.deepEqual(shown.complaints.filter((complaint) => !expected.test(complaint)), []);
});

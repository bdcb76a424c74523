// A browser on the page, and `lark dashboard` under it.

import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { chromium } from "playwright-core";

/** A directory of its own, taken away with `rmSync`. */
export const directory = () => mkdtempSync(join(tmpdir(), "lark-page-"));

/** Starts `lark dashboard`; resolves to the address that it prints. */
export async function dashboard(...flags) {
  const lark = process.env.LARK_BIN;
  if (!lark) throw new Error("LARK_BIN names no binary of lark: run this by `cargo xtask web --test`");
  const child = spawn(lark, ["dashboard", ...flags], { stdio: ["ignore", "pipe", "inherit"] });
  const url = await new Promise((found, failed) => {
    let said = "";
    child.stdout.on("data", (data) => {
      said += data;
      const address = /http:\/\/\S+/.exec(said)?.[0];
      if (address) found(address);
    });
    child.on("error", failed);
    child.on("exit", (code) => failed(new Error(`lark dashboard ended with ${code}: ${said}`)));
  });
  return { url, stop: () => child.kill() };
}

/** Starts Chromium. What pages complain about is in `complaints`: nothing should be. */
export async function browser(options = {}) {
  const executablePath = process.env.LARK_CHROMIUM;
  if (!executablePath) throw new Error("LARK_CHROMIUM names no browser: run this by `cargo xtask web --test`");
  const profile = directory();
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
    viewport: { width: 1440, height: 900 },
    acceptDownloads: true,
    ...options,
  });
  const complaints = [];
  const page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  const close = async () => {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  };
  return { page, context, complaints, close };
}

/** Keeps a picture of the page for people to look at. */
export async function picture(page, name, options = {}) {
  const pictures = process.env.LARK_PICTURES ?? "pictures";
  mkdirSync(pictures, { recursive: true });
  await page.screenshot({ path: join(pictures, `${name}.png`), ...options });
}

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** What the rules for accessible pages find wrong, in short: WCAG 2.2 A and AA and good practice, or one rule. */
export async function inaccessible(page, rule) {
  await page.evaluate(AXE);
  const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
  const runOnly = rule ? { type: "rule", values: [rule] } : { type: "tag", values: tags };
  const options = { runOnly, resultTypes: ["violations"] };
  const found = await page.evaluate((options) => globalThis.axe.run(options), options);
  return found.violations.map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => `${n.target} ${n.failureSummary}`)}`);
}

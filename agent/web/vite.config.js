import { readFileSync } from "node:fs";

import { defineConfig } from "vite";

const preact = (file) => readFileSync(new URL(`node_modules/preact/${file}`, import.meta.url), "utf8");

/** Whose work the page has in it, and the terms that are to go with every copy. */
const notice = `/*! Preact ${JSON.parse(preact("package.json")).version}\n${preact("LICENSE")}*/`;

// The files have fixed names and are committed: agent/src/dashboard/page.rs embeds them. No inline script or
// style, which the page's Content-Security-Policy would not load.
export default defineConfig({
  base: "/",
  build: {
    target: "es2022",
    // From these on browsers know light-dark(), which is otherwise spelled out.
    cssTarget: ["chrome123", "firefox120", "safari17.5"],
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    reportCompressedSize: false,
    rollupOptions: {
      output: {
        entryFileNames: "page.js",
        chunkFileNames: "page-[name].js",
        assetFileNames: "page[extname]",
        postBanner: notice,
      },
    },
  },
});

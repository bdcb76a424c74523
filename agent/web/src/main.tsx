import "./style.css";

import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { Diagram } from "./diagram/Diagram";
import { useLive, type Live, type World } from "./live";
import { kindAndName } from "./model";
import { Connections } from "./pages/Connections";
import { Health } from "./pages/Health";
import { Metrics } from "./pages/Metrics";
import { Workload } from "./pages/Workload";

const TABS = [
  ["diagram", "Diagram"],
  ["connections", "Connections"],
  ["metrics", "Metrics"],
  ["health", "Health"],
] as const;

type Route = { page: string; parts: string[] };

function route(): Route {
  const [page = "", ...parts] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  return { page: page || "diagram", parts };
}

function useRoute(): Route {
  const [at, setAt] = useState(route);
  useEffect(() => {
    const changed = () => setAt(route());
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return at;
}

const THEMES = ["auto", "light", "dark"] as const;

function useTheme() {
  const [theme, setTheme] = useState(() => localStorage.getItem("lark-theme") ?? "auto");
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    localStorage.setItem("lark-theme", theme);
  }, [theme]);
  const next = THEMES[(THEMES.indexOf(theme as (typeof THEMES)[number]) + 1) % THEMES.length] ?? "auto";
  return { theme, turn: () => setTheme(next) };
}

function Page() {
  const live = useLive();
  const { page, parts } = useRoute();
  const { theme, turn } = useTheme();
  const heading = useRef<HTMLHeadingElement>(null);
  const first = useRef(true);
  const at = [page, ...parts].join("/");
  const [namespace = "", owner = ""] = parts;
  const title =
    page === "workload" ? kindAndName(owner)[1] : (TABS.find(([name]) => name === page)?.[1] ?? "Not there");

  useEffect(() => {
    document.title = `${title} · Lark`;
    // Whoever follows a link hears where it led.
    if (!first.current) heading.current?.focus();
    first.current = false;
  }, [at]);

  const { world } = live;
  return (
    <>
      <a
        class="skip"
        href="#content"
        onClick={(event) => {
          event.preventDefault();
          heading.current?.focus();
        }}
      >
        Skip to content
      </a>
      <header class="top">
        <a class="brand" href="#/diagram" aria-label="Lark, to the diagram">
          <img src="/icon.svg" alt="" width="28" height="28" />
          <span>Lark</span>
        </a>
        <nav aria-label="Pages">
          {TABS.map(([name, label]) => (
            <a key={name} href={`#/${name}`} aria-current={page === name ? "page" : undefined}>
              {label}
              {name === "health" && <Trouble world={world} />}
            </a>
          ))}
        </nav>
        <span class="grow" />
        <Pulse live={live} />
        <button type="button" class="theme" onClick={turn} aria-label={`Colours: ${theme}; change`}>
          <span aria-hidden="true">{theme === "auto" ? "◐" : theme === "light" ? "☀" : "☾"}</span> {theme}
        </button>
      </header>
      <main id="content" class={page}>
        <h1 ref={heading} tabIndex={-1}>
          {title}
        </h1>
        {live.error && <Lost live={live} />}
        {world && world.missing.length > 0 && (
          <p class="notice" role="status">
            {world.missing.map(({ node, missing }) => `${node}: ${missing}`).join("; ")}
          </p>
        )}
        {world ? (
          <>
            {page === "diagram" && <Diagram world={world} />}
            {page === "connections" && <Connections world={world} />}
            {page === "metrics" && <Metrics world={world} />}
            {page === "health" && <Health world={world} />}
            {page === "workload" && <Workload world={world} namespace={namespace} owner={owner} />}
          </>
        ) : (
          !live.error && <p class="empty">Asking…</p>
        )}
      </main>
    </>
  );
}

function Lost({ live }: { live: Live }) {
  return (
    <p class="notice bad" role="alert">
      {live.error?.locked
        ? "This page has no secret, or one of an earlier run: open the whole address that `lark dashboard` printed."
        : `${live.error?.message}${live.world ? " What is shown is what was known before." : ""}`}
    </p>
  );
}

function Pulse({ live: { world, error, paused, setPaused } }: { live: Live }) {
  const whom = world ? (world.about.node ? `node ${world.about.node}` : "the cluster") : "";
  const state = error ? "lost" : paused ? "paused" : world ? "live" : "asking";
  return (
    <div class="pulse">
      <span class={`beat ${state}`} aria-hidden="true" />
      <span>
        {whom && <b>{whom}</b>} <span role="status">{state}</span>
      </span>
      <button type="button" aria-pressed={paused} onClick={() => setPaused(!paused)}>
        {paused ? "Go on" : "Pause"}
      </button>
    </div>
  );
}

function Trouble({ world }: { world: World | undefined }) {
  const wrong = world?.nodes.reduce((n, s) => n + (s.missing ? 1 : 0) + s.checks.filter((c) => c.verdict === "fail").length, 0);
  return wrong ? (
    <span class="trouble">
      {wrong}
      <span class="sr"> wrong</span>
    </span>
  ) : null;
}

const root = document.getElementById("page");
if (root) render(<Page />, root);

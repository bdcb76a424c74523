import { useLayoutEffect, useRef } from "preact/hooks";

import { bytes, count, plural } from "../format";
import type { World } from "../live";
import { Identity, Name } from "../parts/Name";
import { Secured } from "../parts/Secured";
import { cardName, type Line } from "./Diagram";

const MOST = 30;

/** What one line of the picture stands for. */
export function Panel({ line, world, close }: { line: Line; world: World; close: () => void }) {
  const button = useRef<HTMLButtonElement>(null);
  // Before anything is painted: a key that is pressed at once must find them.
  useLayoutEffect(() => button.current?.focus(), [line.id]);
  useLayoutEffect(() => {
    const escape = (event: KeyboardEvent) => {
      if (event.key === "Escape") close();
    };
    window.addEventListener("keydown", escape);
    return () => window.removeEventListener("keydown", escape);
  }, [close]);
  const edges = [...line.edges].sort((a, b) => (world.rates.get(b.id) ?? 0) - (world.rates.get(a.id) ?? 0));
  return (
    <aside class="panel" aria-label="The chosen line">
      <header>
        <h2>
          <Secured kind={line.secured} />
        </h2>
        <button type="button" ref={button} onClick={close} aria-label="Close">
          ✕
        </button>
      </header>
      <p>
        {cardName(line.from)} <span aria-hidden="true">→</span>
        <span class="sr">to</span> {cardName(line.to)}: {plural(edges.length, "edge")}, {bytes(line.rate)}/s
      </p>
      <ul>
        {edges.slice(0, MOST).map((edge) => (
          <li key={edge.id}>
            <div class="ends">
              <Name namespace={edge.source.namespace} owner={edge.source.owner} name={edge.source.name} />
              <span aria-hidden="true">→</span>
              <Name namespace={edge.destination.namespace} owner={edge.destination.owner} name={edge.destination.name} />
            </div>
            <dl>
              <dt>Client</dt>
              <dd>
                <Identity identity={edge.source.identity} />
              </dd>
              <dt>Server</dt>
              <dd>
                <Identity identity={edge.destination.identity} />
              </dd>
              <dt>Connections</dt>
              <dd>
                {count(edge.connections)} ({count(edge.open)} open)
              </dd>
              <dt>Bytes</dt>
              <dd>
                {bytes(edge.sent)} there, {bytes(edge.received)} back
              </dd>
              {edge.reason && (
                <>
                  <dt>Reason</dt>
                  <dd>
                    <code>{edge.reason}</code> {edge.detail}
                  </dd>
                </>
              )}
            </dl>
          </li>
        ))}
      </ul>
      {edges.length > MOST && <p class="muted">and {edges.length - MOST} more; see Connections</p>}
    </aside>
  );
}

import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import type { Secured as Kind } from "../api";
import { bytes, plural } from "../format";
import type { World } from "../live";
import { byName, type Edge, type Member } from "../model";
import { SECURED, SIGN, WORD } from "../secured";
import { Card, ClosedGroup, OpenGroup, pressed } from "./Cards";
import { picture, type Group } from "./layout";
import { Panel } from "./Panel";
import { runs, thickness } from "./wires";

/** Up to here all namespaces are open at first. */
const OPEN_AT_FIRST = 40;
/** What a search finds is shown workload by workload up to here. */
const OPEN_FOUND = 60;
/** Moving dashes up to here. */
const MOVING = 160;
const MARGIN = 24;

/** One line of the picture: all edges between two cards that are secured alike. */
export interface Line {
  id: string;
  from: string;
  to: string;
  secured: Kind;
  edges: Edge[];
  rate: number;
}

const closedId = (namespace: string) => `ns:${namespace}`;
export const cardName = (id: string) =>
  id.startsWith("ns:") ? (id === "ns:" ? "outside the mesh" : `namespace ${id.slice(3)}`) : id;

export function Diagram({ world }: { world: World }) {
  const [words, setWords] = useState("");
  const [namespace, setNamespace] = useState("");
  const [hidden, setHidden] = useState<ReadonlySet<Kind>>(new Set());
  const [toggled, setToggled] = useState<ReadonlyMap<string, boolean>>(new Map());
  const [hover, setHover] = useState<string>();
  const [chosen, setChosen] = useState<string>();

  const all = [...world.members.values()];
  const namespaces = [...new Set(all.map((m) => m.namespace))].filter(Boolean).sort(byName);
  const counts = new Map(SECURED.map((kind) => [kind, world.edges.filter((e) => e.secured === kind).length]));

  const visible = useMemo(() => {
    const edges = world.edges.filter((e) => !hidden.has(e.secured));
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (m: Member) => `${m.id} ${m.pods.map((p) => p.name).join(" ")}`.toLowerCase();
    const hit = (m: Member) =>
      (!namespace || m.namespace === namespace) && wanted.every((word) => text(m).includes(word));
    if (!wanted.length && !namespace) return { edges, members: all, hits: null };
    const hits = new Set(all.filter(hit).map((m) => m.id));
    const kept = edges.filter((e) => hits.has(e.from) || hits.has(e.to));
    const near = new Set([...hits, ...kept.flatMap((e) => [e.from, e.to])]);
    return { edges: kept, members: all.filter((m) => near.has(m.id)), hits };
  }, [world, words, namespace, hidden]);

  const few = all.length <= OPEN_AT_FIRST;
  const isOpen = (group: string) => {
    if (group === "") return false;
    const said = toggled.get(group);
    if (said !== undefined) return said;
    if (visible.hits) {
      const found = visible.members.filter((m) => m.namespace === group && visible.hits?.has(m.id));
      return found.length > 0 && visible.hits.size <= OPEN_FOUND;
    }
    return few;
  };

  const groups = new Map<string, Member[]>();
  for (const member of visible.members) {
    groups.set(member.namespace, [...(groups.get(member.namespace) ?? []), member]);
  }
  const shown: Group[] = [...groups.keys()].sort(byName).map((id) => ({
    id: closedId(id),
    members: isOpen(id) ? (groups.get(id) ?? []).map((m) => m.id).sort(byName) : null,
  }));
  const namespaceOf = new Map(visible.members.map((m) => [m.id, m.namespace]));
  const cardOf = (member: string) => {
    const group = namespaceOf.get(member) ?? "";
    return isOpen(group) ? member : closedId(group);
  };

  const lines = new Map<string, Line>();
  for (const edge of visible.edges) {
    const [from, to] = [cardOf(edge.from), cardOf(edge.to)];
    if (from === to) continue;
    const id = `${from} ${to} ${edge.secured}`;
    const line = lines.get(id) ?? { id, from, to, secured: edge.secured, edges: [], rate: 0 };
    line.edges.push(edge);
    line.rate += world.rates.get(edge.id) ?? 0;
    lines.set(id, line);
  }

  const [box, size] = useSize();
  const ratio = Math.max(1, size.w / Math.max(1, size.h));
  const structure = JSON.stringify([shown, [...lines.keys()].sort(), ratio.toFixed(1)]);
  const { places, ways, w, h } = useMemo(() => {
    const groupOf = (id: string) => (id.startsWith("ns:") ? id : closedId(namespaceOf.get(id) ?? ""));
    const drawn = picture(shown, [...lines.values()], groupOf, ratio);
    const placeOf = (id: string) => drawn.cards.get(id) ?? drawn.groups.get(id);
    const closed = shown.flatMap((g) => (g.members ? [] : (drawn.groups.get(g.id) ?? [])));
    const cards = [...drawn.cards.values(), ...closed];
    const lanes = (from: string, to: string) => {
      const [a, b] = [groupOf(from), groupOf(to)];
      return drawn.stretches.get(a === b ? `${from} ${to}` : `${a} ${b}`) ?? [];
    };
    const wires = [...lines.values()].sort((p, q) => (p.id < q.id ? -1 : 1));
    return { places: placeOf, ways: runs(wires, { places: placeOf, cards, lanes }), w: drawn.w, h: drawn.h };
  }, [structure]);

  const [zoom, setZoom] = useState(0);
  const [fullW, fullH] = [w + 2 * MARGIN, h + 2 * MARGIN];
  const fit = Math.min(1.25, Math.max(0.3, Math.min((size.w - 4) / fullW, (size.h - 4) / fullH)));
  const scale = Math.min(2.5, Math.max(0.2, fit * 1.25 ** zoom));

  const touches = (line: Line) => !hover || line.from === hover || line.to === hover || line.id === hover;
  const near = new Set(hover ? [...lines.values()].filter(touches).flatMap((l) => [l.from, l.to]) : []);
  const dim = (id: string) => (hover && hover !== id && !near.has(id) && places(hover) ? " dim" : "");
  // What is looked for is to be seen, whatever was closed before.
  const narrowed = (set: () => void) => {
    set();
    setToggled(new Map());
  };
  const toggle = (group: string) => setToggled(new Map(toggled).set(group, !isOpen(group)));
  const pointed = (id: string) => ({
    onMouseEnter: () => setHover(id),
    onMouseLeave: () => setHover(undefined),
    onFocus: () => setHover(id),
    onBlur: () => setHover(undefined),
  });
  const chosenLine = chosen === undefined ? undefined : lines.get(chosen);
  const drawn = [...lines.values()].sort((a, b) => Number(touches(a)) - Number(touches(b)));

  return (
    <div class="diagram">
      <div class="tools">
        <label class="search">
          <span class="sr">Search workloads</span>
          <input
            type="search"
            placeholder="Search workloads…"
            value={words}
            onInput={(event) => narrowed(() => setWords(event.currentTarget.value))}
          />
        </label>
        <label>
          <span class="sr">Namespace</span>
          <select value={namespace} onChange={(event) => narrowed(() => setNamespace(event.currentTarget.value))}>
            <option value="">All namespaces</option>
            {namespaces.map((name) => (
              <option key={name} value={name}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <div class="chips" role="group" aria-label="Edges that are shown">
          {SECURED.map((kind) => (
            <button
              key={kind}
              type="button"
              class={`chip ${kind}`}
              aria-pressed={!hidden.has(kind)}
              onClick={() => {
                const next = new Set(hidden);
                if (!next.delete(kind)) next.add(kind);
                setHidden(next);
              }}
            >
              <span aria-hidden="true">{SIGN[kind]}</span> {WORD[kind]} <b>{counts.get(kind)}</b>
            </button>
          ))}
        </div>
      </div>
      <div class="stage">
        <div class="canvas" ref={box} tabIndex={0} role="region" aria-label="Network diagram, scrollable">
          {visible.members.length === 0 ? (
            <p class="empty">{all.length ? "Nothing matches." : "No workload is known yet."}</p>
          ) : (
            <svg
              class={lines.size > 60 ? "many" : ""}
              width={fullW * scale}
              height={fullH * scale}
              viewBox={`${-MARGIN} ${-MARGIN} ${fullW} ${fullH}`}
              role="group"
              aria-label={`${plural(visible.members.length, "workload")} in ${plural(groups.size, "group")}, ${plural(lines.size, "line")}`}
            >
              <defs>
                {SECURED.map((kind) => (
                  <marker
                    key={kind}
                    id={`tip-${kind}`}
                    class={`tip ${kind}`}
                    viewBox="0 0 8 8"
                    refX="7"
                    refY="4"
                    markerWidth="9"
                    markerHeight="9"
                    markerUnits="userSpaceOnUse"
                    orient="auto"
                  >
                    <path d="M0 0.5L8 4L0 7.5Z" />
                  </marker>
                ))}
              </defs>
              {shown.map((group) => {
                const place = places(group.id);
                const members = groups.get(group.id.slice(3)) ?? [];
                if (!place || !group.members) return null;
                const name = group.id.slice(3);
                return <OpenGroup key={group.id} {...{ name, place, members, toggle }} />;
              })}
              {drawn.map((line) => {
                const way = ways.get(line.id);
                if (!way) return null;
                const faded = touches(line) ? "" : " dim";
                const thick = thickness(line.rate);
                return (
                  <g key={line.id} class={`line ${line.secured}${faded}`}>
                    <path class="run" d={way.path} stroke-width={thick} marker-end={`url(#tip-${line.secured})`} />
                    {line.rate > 0 && lines.size <= MOVING && (
                      <path class="flow" d={way.path} stroke-width={Math.max(1.2, thick * 0.45)} />
                    )}
                  </g>
                );
              })}
              {shown.map((group) => {
                const place = places(group.id);
                const name = group.id.slice(3);
                if (!place || group.members) return null;
                const members = groups.get(name) ?? [];
                const own = visible.edges.filter(
                  (e) => namespaceOf.get(e.from) === name || namespaceOf.get(e.to) === name,
                );
                return (
                  <ClosedGroup
                    key={group.id}
                    {...{ name, place, members, toggle, edges: own, faded: dim(group.id), pointed: pointed(group.id) }}
                  />
                );
              })}
              {shown.flatMap((group) =>
                (group.members ?? []).map((id) => {
                  const [place, member] = [places(id), world.members.get(id)];
                  if (!place || !member) return null;
                  return <Card key={id} {...{ member, place, faded: dim(id), pointed: pointed(id) }} />;
                }),
              )}
              {drawn.map((line) => {
                const way = ways.get(line.id);
                if (!way) return null;
                const label = `${cardName(line.from)} to ${cardName(line.to)}: ${WORD[line.secured]}, ${bytes(line.rate)} a second`;
                return (
                  <g
                    key={line.id}
                    class={`badge ${line.secured}${touches(line) ? "" : " dim"}`}
                    aria-label={label}
                    aria-pressed={chosen === line.id}
                    {...pressed(() => setChosen(chosen === line.id ? undefined : line.id))}
                    {...pointed(line.id)}
                  >
                    <title>{label}</title>
                    <g aria-hidden="true">
                      <circle cx={way.x} cy={way.y} r="9.5" />
                      <text x={way.x} y={way.y} dy="0.36em" text-anchor="middle">
                        {SIGN[line.secured]}
                      </text>
                    </g>
                  </g>
                );
              })}
            </svg>
          )}
        </div>
        <div class="controls">
          <button type="button" onClick={() => setToggled(new Map(namespaces.map((n) => [n, true])))}>
            Expand all
          </button>
          <button type="button" onClick={() => setToggled(new Map(namespaces.map((n) => [n, false])))}>
            Collapse all
          </button>
          <div class="zoom" role="group" aria-label="Zoom">
            <button type="button" aria-label="Zoom out" onClick={() => setZoom(zoom - 1)}>
              −
            </button>
            <button type="button" onClick={() => setZoom(0)}>
              Fit
            </button>
            <button type="button" aria-label="Zoom in" onClick={() => setZoom(zoom + 1)}>
              +
            </button>
          </div>
        </div>
        {chosenLine && <Panel line={chosenLine} world={world} close={() => setChosen(undefined)} />}
      </div>
    </div>
  );
}

function useSize() {
  const ref = useRef<HTMLDivElement>(null);
  const [size, setSize] = useState({ w: 1000, h: 600 });
  useEffect(() => {
    const element = ref.current;
    if (!element) return;
    const observer = new ResizeObserver(() => setSize({ w: element.clientWidth, h: element.clientHeight }));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  return [ref, size] as const;
}

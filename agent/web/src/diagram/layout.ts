// Where things go: from left to right as connections go, namespaces as boxes with their workloads inside. Pure, and
// the same input gives the same picture.

export interface Box {
  id: string;
  w: number;
  h: number;
}

export interface Place {
  x: number;
  y: number;
  w: number;
  h: number;
}

export interface Link {
  from: string;
  to: string;
}

/** A stretch of a link beside the boxes of a column that it passes. */
export interface Stretch {
  x1: number;
  x2: number;
  y: number;
}

export interface Placed {
  places: Map<string, Place>;
  /** By `from to`, in the order of the way. */
  stretches: Map<string, Stretch[]>;
  w: number;
  h: number;
}

export interface Spacing {
  gapX: number;
  gapY: number;
  /** A column that would be higher is broken into several. */
  maxHeight: number;
  /** More columns than these are drawn together. */
  maxColumns: number;
  /** Whether links go between the boxes of the columns that they pass, which takes room. */
  lanes: boolean;
}

/** Height that a link takes in a column that it passes. */
const LANE = 4;

/** Boxes in columns by the longest way that leads to them; within a column near those that they are linked with. */
export function columns(boxes: Box[], links: Link[], spacing: Spacing): Placed {
  const { gapX, gapY, maxHeight } = spacing;
  const ids = new Set(boxes.map((b) => b.id));
  const own = distinct(links.filter((l) => l.from !== l.to && ids.has(l.from) && ids.has(l.to)));
  const rank = ranks(boxes, own, spacing.maxColumns);
  const size = new Map<string, Box & { lane?: boolean }>(boxes.map((b) => [b.id, b]));
  // A link that passes columns has a lane in each, so that it goes between boxes and not behind them.
  const lanes = new Map<string, string[]>();
  const steps: Link[] = [];
  for (const { from, to } of own) {
    const [a, b] = [rank.get(from) ?? 0, rank.get(to) ?? 0];
    const way = [from];
    for (let at = a + Math.sign(b - a); spacing.lanes && a !== b && at !== b; at += Math.sign(b - a)) {
      const id = `${from} ${to} @${at}`;
      size.set(id, { id, w: 0, h: LANE, lane: true });
      rank.set(id, at);
      way.push(id);
    }
    lanes.set(`${from} ${to}`, way.slice(1));
    way.push(to);
    way.forEach((id, i) => i > 0 && steps.push({ from: way[i - 1] ?? "", to: id }));
  }
  const byRank: string[][] = [];
  for (const id of size.keys()) (byRank[rank.get(id) ?? 0] ??= []).push(id);
  const order = arranged(byRank.filter((column) => column?.length), steps);
  const gap = (a: string | undefined, b: string) =>
    a === undefined ? 0 : size.get(a)?.lane || size.get(b)?.lane ? gapY * 0.6 : gapY;
  const height = (ids: string[]) => ids.reduce((h, id, i) => h + gap(ids[i - 1], id) + (size.get(id)?.h ?? 0), 0);
  const broken = order.flatMap((column) => {
    const parts = Math.max(1, Math.ceil(height(column) / maxHeight));
    const target = height(column) / parts;
    const out: string[][] = [[]];
    for (const id of column) {
      const part = out.at(-1) as string[];
      if (part.length > 0 && height([...part, id]) > target + gapY && out.length < parts) out.push([id]);
      else part.push(id);
    }
    return out;
  });
  const h = Math.max(0, ...broken.map(height));
  const places = new Map<string, Place>();
  const spans = new Map<string, Stretch>();
  let x = 0;
  for (const ids of broken) {
    const w = Math.max(0, ...ids.map((id) => size.get(id)?.w ?? 0));
    let y = (h - height(ids)) / 2;
    ids.forEach((id, i) => {
      const box = size.get(id) as Box & { lane?: boolean };
      y += gap(ids[i - 1], id);
      if (box.lane) spans.set(id, { x1: x, x2: x + w, y: y + LANE / 2 });
      else places.set(id, { x: x + (w - box.w) / 2, y, w: box.w, h: box.h });
      y += box.h;
    });
    x += w + gapX;
  }
  const stretches = new Map<string, Stretch[]>();
  for (const [link, way] of lanes) {
    stretches.set(
      link,
      way.flatMap((id) => spans.get(id) ?? []),
    );
  }
  return { places, stretches, w: Math.max(0, x - gapX), h };
}

function distinct(links: Link[]): Link[] {
  return [...new Map(links.map((l) => [`${l.from} ${l.to}`, { from: l.from, to: l.to }])).values()];
}

/** Columns from 0; a link that would close a circle counts for nothing. */
function ranks(boxes: Box[], links: Link[], most: number): Map<string, number> {
  const out = new Map<string, string[]>();
  const inward = new Map<string, number>();
  for (const { from, to } of links) {
    out.set(from, [...(out.get(from) ?? []), to]);
    inward.set(to, (inward.get(to) ?? 0) + 1);
  }
  // Whoever nobody dials comes first, so that circles are broken where traffic comes in.
  const starts = [...boxes].sort((a, b) => (inward.get(a.id) ?? 0) - (inward.get(b.id) ?? 0));
  const state = new Map<string, "open" | "done">();
  const back = new Set<string>();
  const sorted: string[] = [];
  for (const start of starts) {
    if (state.has(start.id)) continue;
    const way: [string, number][] = [[start.id, 0]];
    state.set(start.id, "open");
    while (way.length > 0) {
      const top = way.at(-1) as [string, number];
      const next = out.get(top[0])?.[top[1]++];
      if (next === undefined) {
        state.set(top[0], "done");
        sorted.push(top[0]);
        way.pop();
      } else if (state.get(next) === "open") {
        back.add(`${top[0]} ${next}`);
      } else if (!state.has(next)) {
        state.set(next, "open");
        way.push([next, 0]);
      }
    }
  }
  const rank = new Map<string, number>(boxes.map((b) => [b.id, 0]));
  for (const id of sorted.reverse()) {
    for (const to of out.get(id) ?? []) {
      if (back.has(`${id} ${to}`)) continue;
      rank.set(to, Math.max(rank.get(to) ?? 0, (rank.get(id) ?? 0) + 1));
    }
  }
  const deepest = Math.max(0, ...rank.values());
  if (deepest >= most) for (const [id, at] of rank) rank.set(id, Math.floor((at * most) / (deepest + 1)));
  return rank;
}

/** Each column in the order of what its boxes are linked with (the barycentre heuristic), there and back. */
function arranged(order: string[][], links: Link[]): string[][] {
  const near = new Map<string, string[]>();
  for (const { from, to } of links) {
    near.set(from, [...(near.get(from) ?? []), to]);
    near.set(to, [...(near.get(to) ?? []), from]);
  }
  const columns = order.map((column) => [...column]);
  for (let turn = 0; turn < 6; turn++) {
    const place = new Map<string, number>();
    columns.forEach((c) => c.forEach((id, i) => place.set(id, (i + 0.5) / c.length)));
    const walk = turn % 2 === 0 ? columns.keys() : [...columns.keys()].reverse();
    for (const at of walk) {
      const column = columns[at] ?? [];
      const weight = (id: string) => {
        const all = (near.get(id) ?? []).map((other) => place.get(other) ?? 0.5);
        return all.length > 0 ? all.reduce((a, b) => a + b, 0) / all.length : (place.get(id) ?? 0.5);
      };
      const weights = new Map(column.map((id) => [id, weight(id)]));
      column.sort((a, b) => (weights.get(a) ?? 0) - (weights.get(b) ?? 0));
      column.forEach((id, i) => place.set(id, (i + 0.5) / column.length));
    }
  }
  return columns;
}

export interface Group {
  id: string;
  /** Its workloads if it is open; none if it is shown as one card. */
  members: string[] | null;
}

export const CARD = { w: 196, h: 50 };
export const CLOSED = { w: 216, h: 76 };
export const HEAD = 40;
export const PAD = 16;

export interface Picture {
  groups: Map<string, Place>;
  cards: Map<string, Place>;
  /** Of links inside a namespace, and of those between namespaces by `ns:a ns:b`. */
  stretches: Map<string, Stretch[]>;
  w: number;
  h: number;
}

const CROWD = 60;
const CROWDED_GROUPS = 12;

/** Columns in which `n` boxes of a size look well in a picture of a ratio, with some more for the flow. */
const fitting = (n: number, w: number, h: number, ratio: number) =>
  Math.max(3, Math.ceil(1.7 * Math.sqrt((n * ratio * h) / w)));

/** The whole picture: namespaces laid out as boxes, open ones with their own workloads inside. */
export function picture(groups: Group[], links: Link[], groupOf: (id: string) => string, ratio: number): Picture {
  const inside = new Map<string, Placed>();
  const alone = groups.filter((g) => g.members).length === 1;
  const boxes = groups.map(({ id, members }): Box => {
    if (!members) return { id, ...CLOSED };
    const cards = members.map((member) => ({ id: member, ...CARD }));
    const shape = alone ? ratio : 1.2;
    const maxColumns = fitting(members.length, CARD.w + 84, CARD.h + 18, shape);
    const rows = Math.max(5, Math.ceil(Math.sqrt(members.length / shape) * 2.2));
    const placed = columns(cards, links, {
      gapX: 84,
      gapY: 18,
      maxHeight: rows * (CARD.h + 18),
      maxColumns,
      lanes: members.length <= CROWD,
    });
    inside.set(id, placed);
    return { id, w: Math.max(placed.w + 2 * PAD, CLOSED.w), h: placed.h + HEAD + PAD };
  });
  // Among many boxes the lanes of links would be most of the picture: it is drawn to be read by its boxes then.
  const crowded = boxes.length > CROWDED_GROUPS;
  const between = links.map(({ from, to }) => ({ from: groupOf(from), to: groupOf(to) }));
  const area = boxes.reduce((sum, box) => sum + (box.w + 110) * (box.h + 28), 0);
  const tallest = Math.max(0, ...boxes.map((box) => box.h));
  const maxHeight = Math.max(tallest, Math.sqrt(area / ratio) * (crowded ? 1.15 : 1.5));
  const mean = (of: (box: Box) => number) => boxes.reduce((sum, box) => sum + of(box), 0) / Math.max(1, boxes.length);
  const [meanW, meanH] = [mean((box) => box.w + 110), mean((box) => box.h + 28)];
  const maxColumns = crowded
    ? Math.max(3, Math.round(Math.sqrt((boxes.length * ratio * meanH) / meanW)))
    : fitting(boxes.length, meanW, meanH, ratio);
  const outer = columns(boxes, between, {
    gapX: 110,
    gapY: 28,
    maxHeight,
    maxColumns,
    lanes: !crowded,
  });
  const cards = new Map<string, Place>();
  const stretches = new Map(outer.stretches);
  for (const [group, placed] of inside) {
    const box = outer.places.get(group);
    if (!box) continue;
    const [left, top] = [box.x + (box.w - placed.w) / 2, box.y + HEAD];
    for (const [id, p] of placed.places) cards.set(id, { ...p, x: left + p.x, y: top + p.y });
    for (const [link, way] of placed.stretches) {
      stretches.set(
        link,
        way.map(({ x1, x2, y }) => ({ x1: left + x1, x2: left + x2, y: top + y })),
      );
    }
  }
  return { groups: outer.places, cards, stretches, w: outer.w, h: outer.h };
}

// How edges run between cards. Pure.

import type { Place, Stretch } from "./layout";

export interface Wire {
  id: string;
  from: string;
  to: string;
}

export interface Run {
  path: string;
  /** Where its sign stands. */
  x: number;
  y: number;
}

type Side = "left" | "right";
type Point = [x: number, y: number];
type Curve = [Point, Point, Point, Point];

/** Between two signs, or one would hide the other. */
const APART = 23;
/** Between wires that share a lane. */
const ABREAST = 9;

interface Ends {
  places: (id: string) => Place | undefined;
  /** What signs must not hide. */
  cards: Iterable<Place>;
  /** Where a wire passes between the cards of columns. */
  lanes: (from: string, to: string) => Stretch[];
}

/** Each wire's way. Wires that share a side of a card leave it one below the other, in the order of where they go. */
export function runs(wires: Wire[], { places, cards, lanes }: Ends): Map<string, Run> {
  const ends = new Map<string, { wire: string; other: number; end: "from" | "to" }[]>();
  const sides = new Map<string, [Side, Side]>();
  const abreast = new Map<string, number>();
  for (const { id, from, to } of wires) {
    const [a, b] = [places(from), places(to)];
    if (!a || !b) continue;
    const pair: [Side, Side] =
      b.x >= a.x + a.w ? ["right", "left"] : a.x >= b.x + b.w ? ["left", "right"] : ["right", "right"];
    sides.set(id, pair);
    const way = lanes(from, to);
    const add = (card: string, side: Side, other: number, end: "from" | "to") => {
      const key = `${card} ${side}`;
      ends.set(key, [...(ends.get(key) ?? []), { wire: id, other, end }]);
    };
    add(from, pair[0], way[0]?.y ?? b.y + b.h / 2, "from");
    add(to, pair[1], way.at(-1)?.y ?? a.y + a.h / 2, "to");
  }
  const heights = new Map<string, number>();
  for (const [key, all] of ends) {
    const place = places(key.slice(0, key.lastIndexOf(" ")));
    if (!place) continue;
    all.sort((p, q) => p.other - q.other || (p.wire < q.wire ? -1 : 1));
    const step = Math.min(15, (place.h - 14) / Math.max(1, all.length - 1));
    all.forEach(({ wire, end }, i) => {
      heights.set(`${wire} ${end}`, place.y + place.h / 2 + (i - (all.length - 1) / 2) * step);
    });
  }
  const found = new Map<string, Run>();
  const signs = new Signs([...cards]);
  for (const { id, from, to } of wires) {
    const [a, b, pair] = [places(from), places(to), sides.get(id)];
    if (!a || !b || !pair) continue;
    const at = (place: Place, side: Side) => (side === "right" ? place.x + place.w : place.x);
    const start: Point = [at(a, pair[0]), heights.get(`${id} from`) ?? 0];
    const end: Point = [at(b, pair[1]), heights.get(`${id} to`) ?? 0];
    const curves: Curve[] = [];
    let last = start;
    const same = abreast.get(`${from} ${to}`) ?? 0;
    abreast.set(`${from} ${to}`, same + 1);
    for (const { x1, x2, y } of pair[0] === pair[1] ? [] : lanes(from, to)) {
      const [near, far] = start[0] < end[0] ? [x1, x2] : [x2, x1];
      const height = y + same * ABREAST;
      curves.push(curve(last, [near, height]), line([near, height], [far, height]));
      last = [far, height];
    }
    curves.push(pair[0] === pair[1] ? loop(last, end) : curve(last, end));
    const [x, y] = signs.place(curves);
    found.set(id, { path: path(curves), x, y });
  }
  return found;
}

/** From one column to the next, level at both ends. */
function curve(from: Point, to: Point): Curve {
  const reach = (to[0] - from[0]) * 0.48;
  return [from, [from[0] + reach, from[1]], [to[0] - reach, to[1]], to];
}

function line(from: Point, to: Point): Curve {
  const part = (t: number): Point => [from[0] + (to[0] - from[0]) * t, from[1] + (to[1] - from[1]) * t];
  return [from, part(1 / 3), part(2 / 3), to];
}

/** Between two cards of one column, around on the right. */
function loop(from: Point, to: Point): Curve {
  const reach = Math.max(from[0], to[0]) + 34 + Math.min(90, Math.abs(to[1] - from[1]) * 0.2);
  return [from, [reach, from[1]], [reach, to[1]], to];
}

const round = (n: number) => Math.round(n * 10) / 10;

function path(curves: Curve[]): string {
  const points = (all: Point[]) => all.map(([x, y]) => `${round(x)} ${round(y)}`).join(" ");
  const [first] = curves;
  return first ? `M${points([first[0]])}${curves.map(([, b, c, d]) => `C${points([b, c, d])}`).join("")}` : "";
}

/** Places for signs on wires, none upon another as far as there is room. */
class Signs {
  private readonly taken = new Map<string, Point[]>();

  constructor(private readonly cards: Place[]) {}

  place(curves: Curve[]): Point {
    const middle = Math.floor((curves.length - 1) / 2);
    const order = curves.map((_, i) => i).sort((a, b) => Math.abs(a - middle) - Math.abs(b - middle));
    const candidates = order.flatMap((i) =>
      [0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8, 0.1, 0.9].map((t) => along(curves[i] as Curve, t)),
    );
    const free = candidates.find((point) => this.isFree(point));
    const [x, y] = free ?? candidates.find((point) => !this.hides(point)) ?? (candidates[0] as Point);
    const cell = this.cell(x, y);
    this.taken.set(cell, [...(this.taken.get(cell) ?? []), [x, y]]);
    return [round(x), round(y)];
  }

  private cell = (x: number, y: number) => `${Math.floor(x / APART)} ${Math.floor(y / APART)}`;

  /** Whether a sign there would hide a card. */
  private hides([x, y]: Point): boolean {
    return this.cards.some((c) => x > c.x - 11 && x < c.x + c.w + 11 && y > c.y - 11 && y < c.y + c.h + 11);
  }

  private isFree([x, y]: Point): boolean {
    if (this.hides([x, y])) return false;
    for (const dx of [-APART, 0, APART]) {
      for (const dy of [-APART, 0, APART]) {
        const near = this.taken.get(this.cell(x + dx, y + dy)) ?? [];
        if (near.some(([ox, oy]) => Math.hypot(ox - x, oy - y) < APART)) return false;
      }
    }
    return true;
  }
}

function along([a, b, c, d]: Curve, t: number): Point {
  const u = 1 - t;
  const of = (i: 0 | 1) => u ** 3 * a[i] + 3 * u * u * t * b[i] + 3 * u * t * t * c[i] + t ** 3 * d[i];
  return [of(0), of(1)];
}

/** Pixels for bytes a second: each tenfold is one step thicker. */
export function thickness(bytesPerSecond: number): number {
  return 1.6 + Math.min(7, 1.35 * Math.log10(1 + bytesPerSecond / 50));
}

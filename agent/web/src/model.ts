// One picture out of what nodes say. Pure.

import type {
  CertView,
  CheckView,
  ConnectionView,
  EdgeView,
  HistoryView,
  NodeAnswer,
  Party,
  Secured,
  SeriesView,
  Status,
  WorkloadView,
} from "./api";

/** A workload as edges name it: what pods belong to. */
export interface Member {
  id: string;
  namespace: string;
  owner: string;
  pods: WorkloadView[];
}

export interface Edge {
  id: string;
  from: string;
  to: string;
  source: Party;
  destination: Party;
  secured: Secured;
  connections: number;
  open: number;
  sent: number;
  received: number;
  reason: string | null;
  detail: string | null;
}

export interface Connection extends ConnectionView {
  id: string;
  node: string;
}

export const OUTSIDE = "outside";

export const memberId = (namespace: string, owner: string) => `${namespace}/${owner}`;
const partyId = (party: Party) => memberId(party.namespace, party.owner || party.name);

/** `Kind/name` taken apart. */
export function kindAndName(owner: string): [string, string] {
  const at = owner.indexOf("/");
  return at < 0 ? ["", owner] : [owner.slice(0, at), owner.slice(at + 1)];
}

/** Pods, each as its own node sees it. */
export function pods(answers: NodeAnswer<WorkloadView[]>[]): WorkloadView[] {
  const best = new Map<string, WorkloadView>();
  for (const { answer } of answers) {
    for (const pod of answer ?? []) {
      const id = `${pod.namespace}/${pod.name}`;
      const known = best.get(id);
      if (!known || (known.state === "remote" && pod.state !== "remote")) best.set(id, pod);
    }
  }
  return [...best.values()];
}

export interface Captured {
  sign: string;
  state: "all" | "some" | "none";
  words: string;
}

/** How many pods of it are captured. Of pods of nodes that are not asked only the wish is known. */
export function captured(member: Member): Captured {
  const held = member.pods.filter((p) => p.state === "captured" || (p.state === "remote" && p.is_wanted)).length;
  if (member.pods.length === 0) return { sign: "○", state: "none", words: "unknown to discovery" };
  if (held === member.pods.length) return { sign: "●", state: "all", words: "captured" };
  if (held === 0) return { sign: "○", state: "none", words: "not captured" };
  return { sign: "◐", state: "some", words: `${held} of ${member.pods.length} pods captured` };
}

export function members(all: WorkloadView[], edges: Edge[]): Map<string, Member> {
  const found = new Map<string, Member>();
  const of = (namespace: string, owner: string) => {
    const id = memberId(namespace, owner);
    let member = found.get(id);
    if (!member) found.set(id, (member = { id, namespace, owner, pods: [] }));
    return member;
  };
  for (const pod of all) of(pod.namespace, pod.owner || pod.name).pods.push(pod);
  for (const { source, destination } of edges) {
    for (const party of [source, destination]) of(party.namespace, party.owner || party.name);
  }
  return found;
}

/** Edges, each once: an edge between two nodes is told by both, and the one that saw more of it counts. */
export function edges(answers: NodeAnswer<EdgeView[]>[]): Edge[] {
  const sides = new Map<string, { edge: Edge; out: number[]; in: number[] }>();
  for (const { answer } of answers) {
    for (const view of answer ?? []) {
      const [from, to] = [partyId(view.source), partyId(view.destination)];
      const id = `${from} ${to} ${view.secured}`;
      let side = sides.get(id);
      if (!side) {
        const edge = { id, from, to, source: view.source, destination: view.destination, secured: view.secured };
        const nothing = { connections: 0, open: 0, sent: 0, received: 0, reason: null, detail: null };
        sides.set(id, (side = { edge: { ...edge, ...nothing }, out: [0, 0, 0, 0], in: [0, 0, 0, 0] }));
      }
      const { edge } = side;
      if (!edge.source.identity && view.source.identity) edge.source = view.source;
      if (!edge.destination.identity && view.destination.identity) edge.destination = view.destination;
      edge.reason ??= view.reason;
      edge.detail ??= view.detail;
      const numbers = [view.connections, view.open, view.sent_bytes, view.received_bytes];
      const sums = [];
      if (view.direction !== "inbound") sums.push(side.out);
      if (view.direction !== "outbound") sums.push(side.in);
      for (const sum of sums) numbers.forEach((n, i) => (sum[i] = (sum[i] ?? 0) + n));
    }
  }
  return [...sides.values()].map(({ edge, out, in: inward }) => {
    const most = (i: number) => Math.max(out[i] ?? 0, inward[i] ?? 0);
    return { ...edge, connections: most(0), open: most(1), sent: most(2), received: most(3) };
  });
}

export function connections(answers: NodeAnswer<ConnectionView[]>[]): Connection[] {
  return answers.flatMap(({ node, answer }) =>
    (answer ?? []).map((view) => ({
      ...view,
      node,
      id: [node, view.direction, view.source_address, view.destination_address].join(" "),
    })),
  );
}

/** Bytes a second of edges, from one reading to the next. */
export class Rates {
  private before = new Map<string, number>();
  private smooth = new Map<string, number>();
  private nodes: ReadonlySet<string> = new Set();
  private at = 0;

  /** `nodes`: those that have said what they know of edges. */
  take(all: Edge[], nodes: ReadonlySet<string>, now: number): ReadonlyMap<string, number> {
    const seconds = (now - this.at) / 1000;
    const next = new Map<string, number>();
    const bytes = new Map(all.map((e) => [e.id, e.sent + e.received] as const));
    // A node that says something for the first time says what it has counted since its agent began.
    const known = seconds > 0 && nodes.size > 0 && [...nodes].every((node) => this.nodes.has(node));
    for (const [id, total] of bytes) {
      const old = this.smooth.get(id);
      // Who appears later began at nothing.
      const fresh = known ? Math.max(0, total - (this.before.get(id) ?? 0)) / seconds : (old ?? 0);
      const rate = (old ?? fresh) * 0.4 + fresh * 0.6;
      next.set(id, rate < 0.5 ? 0 : rate);
    }
    [this.before, this.smooth, this.nodes, this.at] = [bytes, next, nodes, now];
    return next;
  }
}

export interface NodeState {
  node: string;
  status?: Status;
  missing?: string;
  checks: CheckView[];
}

export function nodes(status: NodeAnswer<Status>[], checks: NodeAnswer<CheckView[]>[]): NodeState[] {
  const of = new Map(checks.map((c) => [c.node, c]));
  return status.map(({ node, answer, missing }) => {
    const state: NodeState = { node, checks: of.get(node)?.answer ?? [] };
    if (answer) state.status = answer;
    const why = missing ?? of.get(node)?.missing;
    if (why) state.missing = why;
    return state;
  });
}

/** Certificates by identity; of several nodes' the one that expires first. */
export function certs(answers: NodeAnswer<CertView[]>[]): { node: string; cert: CertView }[] {
  return answers.flatMap(({ node, answer }) => (answer ?? []).map((cert) => ({ node, cert })));
}

/** Seconds between two samples. */
export const STEP = 15;
const HOUR = 240;

/** The last hour of one workload or of all, a slot for each step; `null` where nothing was remembered. */
export interface Hour {
  id: string;
  namespace: string;
  owner: string;
  seenBy: SeriesView["seen_by"];
  nodes: number;
  requests: (number | null)[];
  failures: (number | null)[];
  p50: (number | null)[];
  p95: (number | null)[];
  p99: (number | null)[];
  connections: (number | null)[];
  plaintext: (number | null)[];
  denied: (number | null)[];
  bytes: (number | null)[];
}

/** Series of all nodes laid over each other: counts are added, of quantiles the worst node's counts. */
export function hours(answers: NodeAnswer<HistoryView>[]): Hour[] {
  const slot = (at: number) => Math.floor(at / STEP);
  const last = Math.max(0, ...answers.map(({ answer }) => slot(answer?.at.at(-1) ?? 0)));
  const all = new Map<string, Hour>();
  for (const { answer } of answers) {
    for (const series of answer?.series ?? []) {
      const id = `${series.seen_by} ${memberId(series.namespace, series.workload)}`;
      let hour = all.get(id);
      if (!hour) {
        const nothing = () => new Array<number | null>(HOUR).fill(null);
        hour = {
          id,
          namespace: series.namespace,
          owner: series.workload,
          seenBy: series.seen_by,
          nodes: 0,
          requests: nothing(),
          failures: nothing(),
          p50: nothing(),
          p95: nothing(),
          p99: nothing(),
          connections: nothing(),
          plaintext: nothing(),
          denied: nothing(),
          bytes: nothing(),
        };
        all.set(id, hour);
      }
      hour.nodes++;
      const at = answer?.at ?? [];
      const lay = (to: (number | null)[], from: number[], join: (a: number, b: number) => number) => {
        // The last entries belong together.
        for (let back = 1; back <= from.length && back <= at.length; back++) {
          const place = HOUR - back - (last - slot(at.at(-1) ?? 0));
          const value = from[from.length - back] ?? 0;
          if (place >= 0 && place < HOUR) to[place] = join(to[place] ?? 0, value);
        }
      };
      const sum = (a: number, b: number) => a + b;
      lay(hour.requests, series.requests, sum);
      lay(hour.failures, series.failures, sum);
      lay(hour.connections, series.connections, sum);
      lay(hour.plaintext, series.plaintext, sum);
      lay(hour.denied, series.denied, sum);
      lay(hour.bytes, series.bytes, sum);
      lay(hour.p50, series.p50_us, Math.max);
      lay(hour.p95, series.p95_us, Math.max);
      lay(hour.p99, series.p99_us, Math.max);
    }
  }
  return [...all.values()];
}

type Count = "requests" | "failures" | "connections" | "plaintext" | "denied" | "bytes";
const COUNTS: Count[] = ["requests", "failures", "connections", "plaintext", "denied", "bytes"];

function joined(a: Hour, b: Hour, join: (a: number, b: number) => number): Hour {
  const out = { ...a };
  for (const count of COUNTS) {
    const other = b[count];
    out[count] = a[count].map((v, i) => {
      const w = other[i] ?? null;
      return v === null ? w : w === null ? v : join(v, w);
    });
  }
  return out;
}

/**
 * One hour for each workload that is asked: what its own node saw if that tells, otherwise what its clients' did. Where
 * all nodes are asked both saw the same, but for what one of them alone refused; the larger count is right then.
 */
export function asked(hours: Hour[], everywhere: boolean): Hour[] {
  const best = new Map<string, Hour>();
  for (const hour of hours) {
    if (hour.seenBy === "node") continue;
    const id = memberId(hour.namespace, hour.owner);
    const known = best.get(id);
    const [first, second] = hour.seenBy === "server" ? [hour, known] : [known ?? hour, known && hour];
    best.set(id, second && everywhere ? joined(first, second, Math.max) : first);
  }
  const name = (hour: Hour) => memberId(hour.namespace, hour.owner);
  return [...best.values()].sort((a, b) => sum(b.requests) - sum(a.requests) || byName(name(a), name(b)));
}

/**
 * The hour of all that is asked. Of one node it is its own; of all the sum, with each request once. Who may not see all
 * namespaces is told no node's own: quantiles are then those of the slowest workload.
 */
export function whole(hours: Hour[], everywhere: boolean): Hour | undefined {
  const own = hours.find((hour) => hour.seenBy === "node");
  const first = own ?? hours[0];
  if (!first || !everywhere) return own;
  const all = asked(hours, true);
  const slowest = (of: "p50" | "p95" | "p99") =>
    all.map((hour) => hour[of]).reduce((a, b) => a.map((v, i) => (v === null ? (b[i] ?? null) : Math.max(v, b[i] ?? 0))));
  const quantiles = own ? {} : { p50: slowest("p50"), p95: slowest("p95"), p99: slowest("p99") };
  const nothing = Object.fromEntries(COUNTS.map((count) => [count, first[count].map((v) => v && 0)]));
  const start = { ...first, ...quantiles, ...nothing } as Hour;
  return all.reduce((sum, hour) => joined(sum, hour, (a, b) => a + b), start);
}

/** What was remembered at all, and five minutes at least: a line of a minute in an hour is no picture. */
export function remembered(values: (number | null)[]): (number | null)[] {
  const first = values.findIndex((v) => v !== null);
  return values.slice(Math.min(first < 0 ? values.length : first, values.length - 20));
}

/** The last slots, which a figure of "now" is made from: one alone is often empty. */
export function recent(values: (number | null)[], slots = 4): number[] {
  return values.slice(-slots).filter((v): v is number => v !== null);
}

export const sum = (values: readonly (number | null)[]) => values.reduce<number>((all, v) => all + (v ?? 0), 0);

export const byName = (a: string, b: string) => a.localeCompare(b, "en", { numeric: true });

// What the admin API tells (agent/core/src/view), and how it is asked.

export type Secured = "mtls" | "same_node" | "direct" | "plaintext" | "denied";
export type Verdict = "ok" | "warn" | "fail";

export interface Party {
  namespace: string;
  name: string;
  owner: string;
  identity: string;
}

export interface EdgeView {
  direction: string;
  source: Party;
  destination: Party;
  secured: Secured;
  connections: number;
  open: number;
  sent_bytes: number;
  received_bytes: number;
  reason: string | null;
  detail: string | null;
}

export interface ConnectionView {
  direction: string;
  source: Party;
  destination: Party;
  source_address: string;
  destination_address: string;
  service: string | null;
  secured: Secured | null;
  sent_bytes: number;
  received_bytes: number;
  age_seconds: number | null;
  note: string;
  protocol: string;
  requests: number;
}

export interface WorkloadView {
  namespace: string;
  name: string;
  owner: string;
  node: string;
  identity: string;
  addresses: string[];
  is_wanted: boolean;
  wanted: string;
  state: string;
  why: string;
  mtls: string;
  mtls_by: string;
}

export interface CertView {
  identity: string;
  state: string;
  expires_at: number | null;
  serial: string | null;
  last_error: string | null;
}

export interface CheckView {
  subject: string;
  verdict: Verdict;
  found: string;
  advice: string;
}

export interface Status {
  version: string;
  node: string;
  trust_domain: string;
  ready: boolean;
  uptime_seconds: number;
  workers: number;
  discovery_generation: number;
  discovery_error: string | null;
  pods: { state: string; count: number }[];
  connections_open: number;
  ca_url: string;
  draining: { version: string; process: number; ends_in_seconds: number; connections_open: number }[];
  /** Counts are left out: whoever asks may not see all namespaces. */
  withheld?: boolean;
}

export interface PolicyView {
  kind: string;
  namespace: string;
  name: string;
  effect: string;
  dry_run: boolean;
  selector: string;
  within: string;
  selected: number;
  error: string | null;
}

export interface SeriesView {
  seen_by: "node" | "server" | "client";
  namespace: string;
  workload: string;
  requests: number[];
  failures: number[];
  p50_us: number[];
  p95_us: number[];
  p99_us: number[];
  connections: number[];
  plaintext: number[];
  denied: number[];
  bytes: number[];
}

export interface HistoryView {
  at: number[];
  series: SeriesView[];
}

export interface NodeAnswer<T> {
  node: string;
  answer?: T;
  missing?: string;
}

export interface About {
  version: string;
  node: string | null;
}

const KEPT = "lark-secret";

/** The secret of this run: from the address that `lark dashboard` printed, which it is taken out of. */
function secret(): string {
  const told = /^#([0-9a-f]{64})$/.exec(location.hash)?.[1];
  if (told) {
    sessionStorage.setItem(KEPT, told);
    history.replaceState(null, "", "#/diagram");
    return told;
  }
  return sessionStorage.getItem(KEPT) ?? "";
}

const SECRET = secret();

/** Why there is no answer; `locked` if the secret is not that of the running command. */
export class NoAnswer extends Error {
  constructor(
    message: string,
    readonly locked: boolean,
  ) {
    super(message);
  }
}

export async function ask<T>(path: string): Promise<T> {
  let response: Response;
  try {
    response = await fetch(`/api/${path}`, {
      headers: { authorization: `Bearer ${SECRET}` },
      signal: AbortSignal.timeout(15_000),
    });
  } catch {
    throw new NoAnswer("`lark dashboard` does not answer; is it still running?", false);
  }
  if (!response.ok) {
    throw new NoAnswer((await response.text()).trim() || `${response.status}`, response.status === 401);
  }
  return (await response.json()) as T;
}

export const askNodes = <T,>(path: string) => ask<NodeAnswer<T>[]>(`v1/${path}`);

// A cluster as large as one is asked to be drawn, as agents would tell of it: made by a generator that always makes
// the same. Every way of being secured occurs, and every state of a pod.

/** The numbers of mulberry32, from a seed. */
function numbers(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const NAMESPACES = [
  "shop", "payments", "identity", "search", "catalog", "orders", "shipping", "inventory", "pricing", "reviews",
  "media", "mail", "analytics", "ml-serving", "billing", "support", "partners", "fraud", "ledger", "notifications",
  "geo", "sessions", "feature-flags", "monitoring", "ingress",
];
/** From where traffic comes in to where it ends. */
const TIERS = [
  ["web", "gateway", "render", "proxy"],
  ["api", "auth", "search", "checkout", "stream"],
  ["worker", "scheduler", "sync", "index", "export", "import"],
  ["db", "cache", "queue", "store", "audit"],
];
const ROLES = [0, 1, 2, 3, 4, 5].flatMap((n) => TIERS.flatMap((tier) => tier[n] ?? []));
const tierOf = (m) => TIERS.findIndex((tier) => tier.includes(m.name));

const now = () => Math.floor(Date.now() / 1000);

/** Everything that an agent of `workloads` workloads says. `turn` lets counters move from one answer to the next. */
export function world(workloads, seed = 7) {
  const random = numbers(seed);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const spaces = NAMESPACES.slice(0, Math.max(1, Math.min(NAMESPACES.length, Math.round(workloads / 20))));
  const members = [];
  for (let i = 0; i < workloads; i++) {
    const namespace = spaces[i % spaces.length];
    const name = ROLES[Math.floor(i / spaces.length) % ROLES.length];
    members.push({ namespace, name, owner: `${pick(["Deployment", "Deployment", "StatefulSet"])}/${name}` });
  }
  const identity = (m) => `spiffe://cluster.local/ns/${m.namespace}/sa/${m.name}`;
  const pods = members.flatMap((m, i) => {
    const plain = m.namespace === "monitoring" || random() < 0.03;
    return Array.from({ length: 1 + Math.floor(random() * 3) }, (_, n) => {
      const state = plain ? "not_captured" : i % 97 === 5 && n === 0 ? "pending" : random() < 0.5 ? "captured" : "remote";
      return {
        namespace: m.namespace,
        name: `${m.name}-${(i * 7919 + n).toString(36)}`,
        owner: m.owner,
        node: state === "remote" ? "node-b" : "node-a",
        identity: identity(m),
        addresses: [`10.${1 + n}.${Math.floor(i / 250)}.${(i % 250) + 1}`],
        is_wanted: !plain,
        wanted: plain ? "no label asks for it" : "the namespace's label lark.mesh/capture is enabled",
        state,
        why: state === "pending" ? "no certificate yet: the CA was asked" : "",
        mtls: m.namespace === "payments" ? "strict" : "permissive",
        mtls_by: m.namespace === "payments" ? "mtls_by_namespace" : "mtls_by_mesh",
      };
    });
  });
  const plain = new Set(pods.filter((p) => !p.is_wanted).map((p) => `${p.namespace}/${p.owner}`));
  const party = (m, proved) => ({
    namespace: m.namespace,
    name: m.owner,
    owner: m.owner,
    identity: proved ? identity(m) : "",
  });
  const outside = { namespace: "", name: "outside", owner: "outside", identity: "" };
  const pairs = new Set();
  const links = [];
  const link = (source, destination, secured) => {
    const key = `${source?.namespace}/${source?.owner} ${destination?.namespace}/${destination?.owner}`;
    if (source === destination || pairs.has(key)) return;
    pairs.add(key);
    links.push({ source, destination, secured, speed: Math.round(10 ** (1 + random() * 5)) });
  };
  const usual = (a, b) => {
    if ([a, b].some((m) => plain.has(`${m.namespace}/${m.owner}`))) return "plaintext";
    const dice = random();
    return dice < 0.7 ? "mtls" : dice < 0.9 ? "same_node" : dice < 0.94 ? "direct" : dice < 0.97 ? "denied" : "mtls";
  };
  members.forEach((m) => {
    const below = members.filter((o) => tierOf(o) > tierOf(m));
    const near = below.filter((o) => o.namespace === m.namespace);
    const next = near.filter((o) => tierOf(o) === tierOf(m) + 1);
    for (let n = 0; n < 2 && near.length; n++) {
      const to = pick(n === 0 && next.length ? next : near);
      link(m, to, usual(m, to));
    }
    if (below.length && random() < (workloads > 100 ? 0.12 : 0.25)) {
      const to = pick(below);
      if (NAMESPACES.indexOf(to.namespace) >= NAMESPACES.indexOf(m.namespace)) link(m, to, usual(m, to));
    }
    if (random() < 0.03) link(m, null, "plaintext");
  });
  const ingress = members.filter((m) => m.namespace === "ingress");
  if (ingress.length) for (const space of spaces) {
    const web = members.find((m) => m.namespace === space && m.name === "web");
    if (web) link(ingress[0], web, usual(ingress[0], web));
  }
  let turns = 0;
  const edges = () => {
    turns++;
    return links.map(({ source, destination, secured, speed }, i) => ({
      direction: secured === "mtls" && i % 2 ? "outbound" : secured === "mtls" ? "inbound" : "local",
      source: party(source, secured !== "plaintext"),
      destination: destination ? party(destination, secured !== "plaintext") : outside,
      secured,
      connections: 3 + i + turns,
      open: secured === "denied" ? 0 : 1 + (i % 4),
      sent_bytes: secured === "denied" ? 0 : speed * turns,
      received_bytes: secured === "denied" ? 0 : speed * 3 * turns,
      reason: secured === "denied" ? "policy_denied" : null,
      detail: secured === "denied" ? `AuthorizationPolicy ${destination?.namespace}/only-web allows no other` : null,
    }));
  };
  const connections = links
    .filter((l) => l.secured !== "denied")
    .slice(0, 2000)
    .map(({ source, destination, secured, speed }, i) => ({
      direction: secured === "mtls" ? "outbound" : "local",
      source: party(source, secured !== "plaintext"),
      destination: destination ? party(destination, secured !== "plaintext") : { ...outside, name: "198.51.100.7" },
      source_address: `10.1.0.${(i % 250) + 1}:${40_000 + i}`,
      destination_address: `10.2.0.${(i % 250) + 1}:8080`,
      service: null,
      secured,
      sent_bytes: speed,
      received_bytes: speed * 3,
      age_seconds: i % 7 ? i * 3 : null,
      note: i % 40 === 3 ? "older than the capture" : "",
      protocol: ["http1", "http2", "tls", "postgres", "opaque"][i % 5],
      requests: i % 5 < 2 ? i * 11 : 0,
    }));
  const wave = (base, i) => Math.max(0, Math.round(base * (1 + 0.5 * Math.sin(i / 23 + base)) + random() * base * 0.2));
  const steps = 240;
  const series = (seen_by, m, base) => {
    const list = (f) => Array.from({ length: steps }, (_, i) => f(i));
    const requests = list((i) => wave(base, i));
    return {
      seen_by,
      namespace: m?.namespace ?? "",
      workload: m?.owner ?? "",
      requests,
      failures: requests.map((n, i) => (i % 60 === 40 ? Math.round(n * 0.04) : 0)),
      p50_us: requests.map((n, i) => (n ? wave(1800, i) + 200 : 0)),
      p95_us: requests.map((n, i) => (n ? wave(7000, i) + 500 : 0)),
      p99_us: requests.map((n, i) => (n ? wave(21_000, i) + 900 : 0)),
      connections: list((i) => wave(4, i)),
      plaintext: list((i) => (m ? 0 : i % 50 === 10 ? 2 : 0)),
      denied: list((i) => (i % 80 === 20 ? 1 : 0)),
      bytes: requests.map((n) => n * 2300),
    };
  };
  const history = {
    at: Array.from({ length: steps }, (_, i) => now() - (steps - 1 - i) * 15),
    series: [
      series("node", null, 9000),
      ...members.slice(0, 200).map((m, i) => series(i % 3 ? "server" : "client", m, 10 + ((i * 37) % 400))),
    ],
  };
  const checks = [
    { subject: "discovery", verdict: "ok", found: "current", advice: "" },
    { subject: "heartbeat", verdict: "ok", found: "8 ms old", advice: "" },
    { subject: "map DESTINATIONS", verdict: "warn", found: "230000 of 262144", advice: "raise --destinations-max" },
    ...pods
      .filter((p) => p.node === "node-a")
      .map((p) => ({
        subject: `${p.namespace}/${p.name}`,
        verdict: p.state === "pending" ? "fail" : "ok",
        found: p.state === "pending" ? "pending: no certificate yet: the CA was asked" : p.state,
        advice: p.state === "pending" ? "look at the controller's log" : "",
      })),
  ];
  const policy = {
    kind: "AuthorizationPolicy",
    namespace: "shop",
    name: "only-web",
    effect: "ALLOW",
    dry_run: false,
    selector: "app=db",
    within: "shop",
    selected: 3,
    error: null,
  };
  return {
    members,
    pods,
    answers: {
      "/v1/status": () => ({
        version: "0.1.0",
        node: "node-a",
        trust_domain: "cluster.local",
        ready: false,
        uptime_seconds: 86_400 * 3 + 4000,
        workers: 4,
        discovery_generation: 12,
        discovery_error: null,
        pods: [
          { state: "captured", count: pods.filter((p) => p.state === "captured").length },
          { state: "pending", count: pods.filter((p) => p.state === "pending").length },
        ],
        connections_open: connections.length,
        ca_url: "https://192.0.2.1:15012",
        draining: [],
      }),
      "/v1/workloads": () => pods,
      "/v1/edges": edges,
      "/v1/connections": () => connections,
      "/v1/certs": () =>
        [...new Set(members.map(identity))].slice(0, 60).map((identity, i) => ({
          identity,
          state: i % 20 === 11 ? "renewal_late" : "valid",
          expires_at: now() + 40_000 + i * 60,
          serial: (0x6966a86a963c + i).toString(16),
          last_error: i % 20 === 11 ? "the CA does not answer" : null,
        })),
      "/v1/check": () => checks,
      "/v1/history": () => history,
      "/v1/policy/selecting": () => [policy],
    },
  };
}

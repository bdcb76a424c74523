import { useEffect, useState } from "preact/hooks";

import { askNodes, type CertView, type PolicyView, type WorkloadView } from "../api";
import { bytes, count, duration, plural } from "../format";
import type { World } from "../live";
import { asked, captured, kindAndName, memberId, type Edge } from "../model";
import { Identity, Name } from "../parts/Name";
import { Secured } from "../parts/Secured";
import { HEADS, Row } from "./Metrics";

export function Workload({ world, namespace, owner }: { world: World; namespace: string; owner: string }) {
  const id = memberId(namespace, owner);
  const member = world.members.get(id);
  if (!member) {
    return <p class="empty">No workload {id} is known. It may be gone; the diagram shows those there are.</p>;
  }
  const [kind] = kindAndName(owner);
  const into = world.edges.filter((e) => e.to === id);
  const out = world.edges.filter((e) => e.from === id);
  const hour = asked(world.hours, world.about.node === null).find((h) => memberId(h.namespace, h.owner) === id);
  const identities = [...new Set(member.pods.map((p) => p.identity).filter(Boolean))];
  const state = captured(member);
  return (
    <div class="workload">
      <p class="lead">
        <span class={`state ${state.state}`}>
          <span aria-hidden="true">{state.sign}</span> {state.words}
        </span>
        <span>{kind || "Pod"}</span>
        <span>in namespace {namespace}</span>
        <span>{plural(member.pods.length, "pod")}</span>
      </p>

      <section class="block">
        <h2>Identity and certificate</h2>
        {identities.length === 0 && <p class="empty">It has no identity.</p>}
        {identities.map((identity) => (
          <Certificates key={identity} identity={identity} world={world} />
        ))}
      </section>

      <section class="block">
        <h2>Capture</h2>
        <ul class="pods">
          {member.pods.map((pod) => (
            <Pod key={pod.name} pod={pod} />
          ))}
        </ul>
        {member.pods.length === 0 && <p class="empty">Discovery knows no pod of it; it is seen in connections only.</p>}
      </section>

      {hour && (
        <section class="block wide">
          <h2>The last hour</h2>
          <div class="scroll" tabIndex={0} role="region" aria-label="Metrics, scrollable">
            <table class="golden">
              <caption class="sr">Golden metrics of {id}</caption>
              <thead>
                <tr>
                  {HEADS.map((head) => (
                    <th key={head} scope="col">
                      {head}
                    </th>
                  ))}
                </tr>
              </thead>
              <tbody>
                <Row hour={hour} />
              </tbody>
            </table>
          </div>
        </section>
      )}

      <Edges title="Who connects to it" edges={into} other="source" world={world} />
      <Edges title="What it connects to" edges={out} other="destination" world={world} />
      {member.pods[0] && <Policies pod={`${namespace}/${member.pods[0].name}`} />}
    </div>
  );
}

function Certificates({ identity, world }: { identity: string; world: World }) {
  const held = world.certs.filter(({ cert }) => cert.identity === identity);
  return (
    <div class="identity-card">
      <code class="spiffe">{identity}</code>
      {held.length === 0 && (
        <p class="muted">No certificate on {world.about.node ? `node ${world.about.node}` : "any node"}: agents hold those of their own node's pods.</p>
      )}
      {held.map(({ node, cert }) => (
        <Certificate key={node} node={node} cert={cert} now={world.at / 1000} />
      ))}
    </div>
  );
}

function Certificate({ node, cert, now }: { node: string; cert: CertView; now: number }) {
  const left = cert.expires_at === null ? null : cert.expires_at - now;
  const tone = cert.state === "valid" ? "good" : cert.state === "pending" ? "warn" : "bad";
  return (
    <dl class="facts">
      <dt>On node {node}</dt>
      <dd class={tone}>{cert.state.replaceAll("_", " ")}</dd>
      {left !== null && (
        <>
          <dt>{left > 0 ? "Expires in" : "Expired"}</dt>
          <dd>
            {duration(Math.abs(left))}
            {left <= 0 && " ago"}
            <span class="muted"> ({new Date((cert.expires_at ?? 0) * 1000).toLocaleString()})</span>
          </dd>
        </>
      )}
      {cert.serial && (
        <>
          <dt>Serial</dt>
          <dd>
            <code>{cert.serial}</code>
          </dd>
        </>
      )}
      {cert.last_error && (
        <>
          <dt>Last error</dt>
          <dd class="bad">{cert.last_error}</dd>
        </>
      )}
    </dl>
  );
}

const STATE: Record<string, [sign: string, tone: string]> = {
  captured: ["●", "good"],
  remote: ["◌", "calm"],
  pending: ["◐", "warn"],
  waiting: ["◌", "calm"],
  releasing: ["◐", "warn"],
  failed: ["✗", "bad"],
  not_captured: ["○", "calm"],
};

function Pod({ pod }: { pod: WorkloadView }) {
  const [sign, tone] = STATE[pod.state] ?? ["○", "calm"];
  return (
    <li>
      <h3>{pod.name}</h3>
      <dl class="facts">
        <dt>State</dt>
        <dd class={tone}>
          <span aria-hidden="true">{sign}</span>{" "}
          {pod.state === "remote" ? `on node ${pod.node}, whose agent knows` : pod.state.replaceAll("_", " ")}
        </dd>
        <dt>Why</dt>
        <dd>
          {pod.is_wanted ? "It is to be captured: " : "It is not to be captured: "}
          {pod.wanted}
          {pod.why && pod.why !== pod.wanted && <>. {pod.why}</>}
        </dd>
        <dt>Plaintext</dt>
        <dd>
          {pod.mtls} <code>{pod.mtls_by}</code>
        </dd>
        <dt>Node</dt>
        <dd>{pod.node}</dd>
        <dt>Addresses</dt>
        <dd>
          <code>{pod.addresses.join(", ") || "none"}</code>
        </dd>
      </dl>
    </li>
  );
}

function Edges(props: { title: string; edges: Edge[]; other: "source" | "destination"; world: World }) {
  const { title, edges, other, world } = props;
  const rate = (edge: Edge) => world.rates.get(edge.id) ?? 0;
  const sorted = [...edges].sort((a, b) => rate(b) - rate(a) || b.connections - a.connections);
  return (
    <section class="block wide">
      <h2>
        {title} <span class="muted">{edges.length}</span>
      </h2>
      {edges.length === 0 ? (
        <p class="empty">Nobody so far.</p>
      ) : (
        <div class="scroll" tabIndex={0} role="region" aria-label={`${title}, scrollable`}>
          <table>
            <caption class="sr">{title}</caption>
            <thead>
              <tr>
                <th scope="col">Secured</th>
                <th scope="col">{other === "source" ? "From" : "To"}</th>
                <th scope="col">Identity</th>
                <th scope="col" class="number">
                  Connections
                </th>
                <th scope="col" class="number">
                  Open
                </th>
                <th scope="col" class="number">
                  Bytes/s
                </th>
                <th scope="col">Reason</th>
              </tr>
            </thead>
            <tbody>
              {sorted.map((edge) => (
                <tr key={edge.id}>
                  <td>
                    <Secured kind={edge.secured} />
                  </td>
                  <td>
                    <Name {...edge[other]} />
                  </td>
                  <td>
                    <Identity identity={edge[other].identity} />
                  </td>
                  <td class="number">{count(edge.connections)}</td>
                  <td class="number">{count(edge.open)}</td>
                  <td class="number">{bytes(rate(edge))}</td>
                  <td>{edge.reason && <code title={edge.detail ?? ""}>{edge.reason}</code>}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

function Policies({ pod }: { pod: string }) {
  const [policies, setPolicies] = useState<PolicyView[] | string>();
  useEffect(() => {
    let current = true;
    const asked = `policy/selecting?workload=${pod}`;
    askNodes<PolicyView[]>(asked).then(
      (answers) => {
        if (!current) return;
        const said = answers.find((a) => a.answer);
        setPolicies(said?.answer ?? answers[0]?.missing ?? "no node answered");
      },
      (error: Error) => current && setPolicies(error.message),
    );
    return () => {
      current = false;
    };
  }, [pod]);
  return (
    <section class="block wide">
      <h2>
        Policies that select it {Array.isArray(policies) && <span class="muted">{policies.length}</span>}
      </h2>
      {policies === undefined && <p class="muted">Asking…</p>}
      {typeof policies === "string" && <p class="bad">{policies}</p>}
      {Array.isArray(policies) && policies.length === 0 && (
        <p class="empty">None: whoever is in the mesh may connect to it, and it may connect to all.</p>
      )}
      {Array.isArray(policies) && policies.length > 0 && (
        <ul class="policies">
          {policies.map((p) => (
            <li key={`${p.kind} ${p.namespace}/${p.name}`}>
              <b>
                {p.namespace}/{p.name}
              </b>
              <span class="kind">{p.kind}</span>
              <span class={`effect${p.error ? " bad" : ""}`}>
                {p.effect}
                {p.dry_run && ", dry run"}
              </span>
              <span class="muted">
                {p.selector || "all workloads"} {p.within ? `in ${p.within}` : "of the mesh"}, {p.selected} now
              </span>
              {p.error && <span class="bad">{p.error}</span>}
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

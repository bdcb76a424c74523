import type { CheckView, Verdict } from "../api";
import { duration, plural } from "../format";
import type { World } from "../live";
import { byName, type NodeState } from "../model";
import { Table, type Column } from "../parts/Table";

const SIGN: Record<Verdict, string> = { ok: "√", warn: "!", fail: "✗" };
const WORD: Record<Verdict, string> = { ok: "ok", warn: "worth a look", fail: "wrong" };
const TONE: Record<Verdict, string> = { ok: "good", warn: "warn", fail: "bad" };
const ORDER: Verdict[] = ["fail", "warn", "ok"];

const worst = (checks: CheckView[]): Verdict => ORDER.find((v) => checks.some((c) => c.verdict === v)) ?? "ok";

interface Found extends CheckView {
  node: string;
}

const CHECKS: Column<Found>[] = [
  {
    title: "Verdict",
    value: (c) => c.verdict,
    order: (c) => ORDER.indexOf(c.verdict),
    cell: (c) => (
      <span class={`verdict ${TONE[c.verdict]}`}>
        <span aria-hidden="true">{SIGN[c.verdict]}</span> {WORD[c.verdict]}
      </span>
    ),
  },
  { title: "Node", value: (c) => c.node },
  { title: "Subject", value: (c) => c.subject },
  { title: "Found", value: (c) => c.found },
  { title: "What to do", value: (c) => c.advice },
];

export function Health({ world }: { world: World }) {
  const found = world.nodes.flatMap(({ node, checks }) => checks.map((check) => ({ ...check, node })));
  const versions = new Set(world.nodes.flatMap(({ status }) => (status ? [status.version] : [])));
  const silent = world.nodes.filter((n) => n.missing).length;
  const count = (verdict: Verdict) => found.filter((c) => c.verdict === verdict).length;
  return (
    <>
      <p class="lead">
        <span class={count("fail") + silent ? "bad" : "good"}>
          {count("fail") + silent ? "Something is wrong" : count("warn") ? "Well, with warnings" : "All is well"}
        </span>
        <span>{plural(world.nodes.length, "node")}</span>
        {silent > 0 && <span class="bad">{silent} without an answer</span>}
        <span class={versions.size > 1 ? "warn" : ""}>{plural(versions.size, "version")}</span>
        <span>
          {count("fail")} wrong, {count("warn")} worth a look, {count("ok")} ok
        </span>
      </p>
      <ul class="nodes">
        {[...world.nodes]
          .sort((a, b) => byName(a.node, b.node))
          .map((node) => (
            <Node key={node.node} node={node} />
          ))}
      </ul>
      <h2>Checks</h2>
      <Table
        label="Checks"
        rows={found}
        id={(c) => `${c.node} ${c.subject} ${c.found}`}
        columns={CHECKS}
        file="lark-checks"
        empty="No check has been heard of yet."
      />
    </>
  );
}

function Node({ node: { node, status, missing, checks } }: { node: NodeState }) {
  const verdict = missing ? "fail" : worst(checks);
  return (
    <li class={TONE[verdict]}>
      <h2>
        <span class={`verdict ${TONE[verdict]}`}>
          <span aria-hidden="true">{SIGN[verdict]}</span>
          <span class="sr">{WORD[verdict]}: </span>
        </span>
        {node}
      </h2>
      {missing && <p class="bad">{missing}</p>}
      {status && (
        <dl class="facts">
          <dt>Version</dt>
          <dd>{status.version}</dd>
          <dt>Runs for</dt>
          <dd>{duration(status.uptime_seconds)}</dd>
          {!status.withheld && (
            <>
              <dt>Pods</dt>
              <dd>{status.pods.map((p) => `${p.count} ${p.state.replaceAll("_", " ")}`).join(", ") || "none"}</dd>
              <dt>Connections</dt>
              <dd>{status.connections_open} open</dd>
            </>
          )}
          <dt>Discovery</dt>
          <dd class={status.discovery_error ? "bad" : ""}>{status.discovery_error ?? "current"}</dd>
          <dt>Ready</dt>
          <dd class={status.ready ? "" : "warn"}>{status.ready ? "yes" : "pods are still to be captured"}</dd>
          {status.draining.map((d) => (
            <>
              <dt>Drains</dt>
              <dd>
                {d.version}, {d.connections_open} open, {duration(d.ends_in_seconds)} left
              </dd>
            </>
          ))}
        </dl>
      )}
    </li>
  );
}

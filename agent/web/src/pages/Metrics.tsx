import { useState } from "preact/hooks";

import { bytes, count, micros, percent, rate } from "../format";
import type { World } from "../live";
import { asked, memberId, recent, remembered, STEP, sum, whole, type Hour } from "../model";
import { Name } from "../parts/Name";
import { Spark } from "../parts/Spark";

/** What the last minute of an hour comes to. */
function now(hour: Hour) {
  const per = (values: (number | null)[]) => {
    const last = recent(values);
    return last.length ? sum(last) / (last.length * STEP) : 0;
  };
  const [requests, failures] = [sum(recent(hour.requests)), sum(recent(hour.failures))];
  const latest = (values: (number | null)[]) => values.findLast((v) => v !== null && v > 0) ?? 0;
  return {
    requests: per(hour.requests),
    bytes: per(hour.bytes),
    success: requests > 0 ? 1 - failures / requests : undefined,
    p50: latest(hour.p50.slice(-4)),
    p95: latest(hour.p95.slice(-4)),
    p99: latest(hour.p99.slice(-4)),
  };
}

const success = (hour: Hour) =>
  hour.requests.map((n, i) => (n === null ? null : n === 0 ? null : 1 - (hour.failures[i] ?? 0) / n));
const perSecond = (values: (number | null)[]) => values.map((v) => (v === null ? null : v / STEP));
const times = (values: (number | null)[]) => values.map((v) => (v === 0 ? null : v));

/** What each cell of a row is. */
export const HEADS = ["Workload", "Requests/s", "Success", "p50", "p95", "p99", "Bytes/s", "Denied"];

export function Metrics({ world }: { world: World }) {
  const everywhere = world.about.node === null;
  const all = whole(world.hours, everywhere);
  const [words, setWords] = useState("");
  const hits = (hour: Hour) => memberId(hour.namespace, hour.owner).toLowerCase().includes(words.toLowerCase());
  const rows = asked(world.hours, everywhere).filter(hits);
  const seconds = all ? recent(all.bytes, all.bytes.length).length * STEP : 0;
  return (
    <>
      {all && <Tiles all={all} />}
      <section class="table" aria-label="By workload that is asked">
        <div class="tools">
          <label class="search">
            <span class="sr">Search workloads</span>
            <input
              type="search"
              placeholder="Search…"
              value={words}
              onInput={(event) => setWords(event.currentTarget.value)}
            />
          </label>
          <span class="muted">
            The last {Math.max(1, Math.round(seconds / 60))} min that agents remember, a point each {STEP} s. Figures
            are of the last minute.
          </span>
        </div>
        {rows.length === 0 ? (
          <p class="empty">No workload has been asked for anything yet.</p>
        ) : (
          <div class="scroll" tabIndex={0} role="region" aria-label="Metrics by workload, scrollable">
            <table class="golden">
              <caption class="sr">Golden metrics by workload</caption>
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
                {rows.map((hour) => (
                  <Row key={hour.id} hour={hour} />
                ))}
              </tbody>
            </table>
          </div>
        )}
      </section>
    </>
  );
}

export function Row({ hour }: { hour: Hour }) {
  const at = now(hour);
  const name = memberId(hour.namespace, hour.owner);
  const rates = perSecond(hour.requests);
  const parts = success(hour);
  const p95 = times(hour.p95);
  return (
    <tr>
      <th scope="row">
        <Name namespace={hour.namespace} owner={hour.owner} />
        {hour.seenBy === "client" && <span class="kind">as its clients see it</span>}
      </th>
      <td>
        <Cell figure={rate(at.requests)} values={rates} label={`Requests a second of ${name}, up to ${rate(Math.max(0, ...rates.map((r) => r ?? 0)))}`} />
      </td>
      <td>
        <Cell
          figure={at.success === undefined ? "–" : percent(at.success)}
          values={parts}
          max={1}
          min={Math.min(0.9, ...parts.map((v) => v ?? 1))}
          tone={at.success === undefined ? "calm" : at.success < 0.95 ? "bad" : at.success < 0.995 ? "warn" : "good"}
          label={`Part of requests to ${name} that went well, down to ${percent(Math.min(1, ...parts.map((r) => r ?? 1)))}`}
        />
      </td>
      <td class="number">{micros(at.p50)}</td>
      <td>
        <Cell figure={micros(at.p95)} values={p95} label={`p95 of ${name}, up to ${micros(Math.max(0, ...p95.map((r) => r ?? 0)))}`} />
      </td>
      <td class="number">{micros(at.p99)}</td>
      <td>
        <Cell figure={bytes(at.bytes)} values={perSecond(hour.bytes)} label={`Bytes a second of ${name}`} />
      </td>
      <td class={`number${sum(hour.denied) > 0 ? " bad" : ""}`}>{count(sum(hour.denied))}</td>
    </tr>
  );
}

interface CellProps {
  figure: string;
  values: (number | null)[];
  label: string;
  max?: number | undefined;
  min?: number | undefined;
  tone?: "calm" | "good" | "bad" | "warn";
}

function Cell({ figure, values, label, max, min, tone = "calm" }: CellProps) {
  return (
    <div class="cell">
      <span class={`figure ${tone}`}>{figure}</span>
      <Spark values={remembered(values)} label={`The last hour: ${label}`} tone={tone} w={96} h={26} max={max} min={min} />
    </div>
  );
}

function Tiles({ all }: { all: Hour }) {
  const at = now(all);
  const plain = sum(all.plaintext);
  const tiles: [string, string, string, (number | null)[], CellProps["tone"], number?][] = [
    ["Requests", rate(at.requests), "a second", perSecond(all.requests), "calm"],
    [
      "Success",
      at.success === undefined ? "–" : percent(at.success),
      "of the last minute",
      success(all),
      at.success !== undefined && at.success < 0.995 ? "warn" : "good",
      1,
    ],
    ["Latency, p95", micros(at.p95), "to the last byte", times(all.p95), "calm"],
    ["Traffic", bytes(at.bytes), "a second", perSecond(all.bytes), "calm"],
    ["Plaintext connections", count(plain), "in the last hour", all.plaintext, plain ? "bad" : "good"],
    ["Denied connections", count(sum(all.denied)), "in the last hour", all.denied, sum(all.denied) ? "warn" : "good"],
  ];
  return (
    <ul class="tiles">
      {tiles.map(([title, figure, unit, values, tone, max]) => (
        <li key={title}>
          <h2>{title}</h2>
          <p>
            <b class={tone}>{figure}</b> <span class="muted">{unit}</span>
          </p>
          <Spark values={remembered(values)} label={`${title} in the last hour`} tone={tone} w={200} h={44} max={max} min={max && Math.min(0.9, ...values.map((v) => v ?? 1))} wide />
        </li>
      ))}
    </ul>
  );
}

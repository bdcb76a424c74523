import { useState } from "preact/hooks";

import { bytes, duration } from "../format";
import type { World } from "../live";
import type { Connection, Edge } from "../model";
import { Identity, Name, partyName } from "../parts/Name";
import { Secured } from "../parts/Secured";
import { Table, type Column } from "../parts/Table";
import { SECURED, WORD } from "../secured";

const EDGES: Column<Edge>[] = [
  {
    title: "Secured",
    value: (e) => WORD[e.secured],
    order: (e) => SECURED.indexOf(e.secured),
    cell: (e) => <Secured kind={e.secured} />,
  },
  { title: "Source", value: (e) => partyName(e.source), cell: (e) => <Name {...e.source} /> },
  { title: "Destination", value: (e) => partyName(e.destination), cell: (e) => <Name {...e.destination} /> },
  {
    title: "Client identity",
    value: (e) => e.source.identity,
    cell: (e) => <Identity identity={e.source.identity} />,
  },
  {
    title: "Server identity",
    value: (e) => e.destination.identity,
    cell: (e) => <Identity identity={e.destination.identity} />,
  },
  { title: "Connections", value: (e) => e.connections, number: true },
  { title: "Open", value: (e) => e.open, number: true },
  { title: "Sent", value: (e) => e.sent, cell: (e) => bytes(e.sent), number: true },
  { title: "Received", value: (e) => e.received, cell: (e) => bytes(e.received), number: true },
  {
    title: "Reason",
    value: (e) => e.reason ?? "",
    cell: (e) => e.reason && <code title={e.detail ?? ""}>{e.reason}</code>,
  },
];

const OPEN: Column<Connection>[] = [
  {
    title: "Secured",
    value: (c) => (c.secured ? WORD[c.secured] : "opening"),
    order: (c) => (c.secured ? SECURED.indexOf(c.secured) : -1),
    cell: (c) => <Secured kind={c.secured} />,
  },
  { title: "Source", value: (c) => partyName(c.source), cell: (c) => <Name {...c.source} /> },
  { title: "Destination", value: (c) => partyName(c.destination), cell: (c) => <Name {...c.destination} /> },
  {
    title: "Client identity",
    value: (c) => c.source.identity,
    cell: (c) => <Identity identity={c.source.identity} />,
  },
  {
    title: "Server identity",
    value: (c) => c.destination.identity,
    cell: (c) => <Identity identity={c.destination.identity} />,
  },
  { title: "From", value: (c) => c.source_address, cell: (c) => <code>{c.source_address}</code> },
  { title: "To", value: (c) => c.destination_address, cell: (c) => <code>{c.destination_address}</code> },
  { title: "Way", value: (c) => c.direction },
  { title: "Protocol", value: (c) => c.protocol },
  { title: "Requests", value: (c) => c.requests, number: true },
  { title: "Sent", value: (c) => c.sent_bytes, cell: (c) => bytes(c.sent_bytes), number: true },
  { title: "Received", value: (c) => c.received_bytes, cell: (c) => bytes(c.received_bytes), number: true },
  {
    title: "Age",
    value: (c) => c.age_seconds ?? -1,
    cell: (c) => (c.age_seconds === null ? "–" : duration(c.age_seconds)),
    number: true,
  },
  { title: "Node", value: (c) => c.node },
  { title: "Note", value: (c) => c.note },
];

export function Connections({ world }: { world: World }) {
  const [which, setWhich] = useState<"edges" | "open">("edges");
  const choice = (
    <div class="segments" role="group" aria-label="Which connections">
      <button type="button" aria-pressed={which === "edges"} onClick={() => setWhich("edges")}>
        All so far, by workload
      </button>
      <button type="button" aria-pressed={which === "open"} onClick={() => setWhich("open")}>
        Open now
      </button>
    </div>
  );
  const day = new Date(world.at).toISOString().slice(0, 19).replaceAll(":", "-");
  return which === "edges" ? (
    <Table
      key="edges"
      label="Connections by workload"
      rows={world.edges}
      id={(e) => e.id}
      columns={EDGES}
      file={`lark-connections-${day}`}
      descending
      empty="No captured workload has connected to anything yet."
    >
      {choice}
    </Table>
  ) : (
    <Table
      key="open"
      label="Open connections"
      rows={world.connections}
      id={(c) => c.id}
      columns={OPEN}
      file={`lark-open-connections-${day}`}
      descending
      empty="No connection is open."
    >
      {choice}
    </Table>
  );
}

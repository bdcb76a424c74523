import type { Party } from "../api";
import { shortId } from "../format";
import { kindAndName, memberId, OUTSIDE } from "../model";

/** The address of a workload's page. */
export const workloadHref = (namespace: string, owner: string) =>
  `#/workload/${encodeURIComponent(namespace)}/${encodeURIComponent(owner)}`;

/** A workload by name, with the way to its page. */
export function Name({ namespace, owner, name }: { namespace: string; owner: string; name?: string }) {
  if (!namespace) return <span>{owner === OUTSIDE && name && name !== OUTSIDE ? name : outside(owner)}</span>;
  const [kind, own] = kindAndName(owner);
  return (
    <a class="name" href={workloadHref(namespace, owner)} title={`${memberId(namespace, owner)}`}>
      <span class="muted">{namespace}/</span>
      {own}
      {kind && <span class="kind">{kind}</span>}
    </a>
  );
}

const outside = (owner: string) => (owner === OUTSIDE ? "outside the mesh" : owner);

export const partyName = (party: Party) =>
  party.namespace ? memberId(party.namespace, party.owner || party.name) : outside(party.owner || party.name);

/** An identity, short; the whole of it where it is pointed at. */
export function Identity({ identity }: { identity: string }) {
  if (!identity) return <span class="muted">not proved</span>;
  return (
    <span class="identity" title={identity}>
      {shortId(identity)}
    </span>
  );
}

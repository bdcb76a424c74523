// What edges run between: workloads, and namespaces open or closed.

import { plural } from "../format";
import { captured, kindAndName, OUTSIDE, type Edge, type Member } from "../model";
import { workloadHref } from "../parts/Name";
import { SECURED } from "../secured";
import type { Place } from "./layout";

export interface Pointed {
  onMouseEnter: () => void;
  onMouseLeave: () => void;
  onFocus: () => void;
  onBlur: () => void;
}

/** A workload. */
export function Card(props: { member: Member; place: Place; faded: string; pointed: Pointed }) {
  const { member, place, faded, pointed } = props;
  const [kind, name] = kindAndName(member.owner);
  const { state, words } = captured(member);
  const below = [kind || "Pod", member.pods.length > 1 ? plural(member.pods.length, "pod") : ""].filter(Boolean);
  return (
    <a
      class={`card ${state}${faded}`}
      href={workloadHref(member.namespace, member.owner)}
      aria-label={`${name} ${below.join(" · ")}, namespace ${member.namespace}, ${words}`}
      {...pointed}
    >
      <title>{`${member.id}\n${words}`}</title>
      <g aria-hidden="true">
        <rect class="body" x={place.x} y={place.y} width={place.w} height={place.h} rx="10" />
        <circle class="dot" cx={place.x + 18} cy={place.y + place.h / 2} r="4.5" />
        <text class="title" x={place.x + 32} y={place.y + 21}>
          {cut(name, 22)}
        </text>{" "}
        <text class="sub" x={place.x + 32} y={place.y + 37}>
          {below.join(" · ")}
        </text>
      </g>
    </a>
  );
}

/** What makes something drawn a button. */
export function pressed(action: () => void) {
  return {
    role: "button" as const,
    tabindex: 0,
    onClick: action,
    onKeyDown: (event: KeyboardEvent) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      action();
    },
  };
}

/** A namespace with its workloads inside. */
export function OpenGroup(props: { name: string; place: Place; members: Member[]; toggle: (name: string) => void }) {
  const { name, place, members, toggle } = props;
  return (
    <g class="group">
      <rect class="body" x={place.x} y={place.y} width={place.w} height={place.h} rx="16" />
      <g class="head" aria-expanded="true" aria-label={`Namespace ${name} ${plural(members.length, "workload")}, collapse`} {...pressed(() => toggle(name))}>
        <g aria-hidden="true">
          <rect class="focus" x={place.x + 6} y={place.y + 6} width={place.w - 12} height={26} rx="8" />
          <path class="twist" d={`M${place.x + 15} ${place.y + 16}h10l-5 6z`} />
          <text class="title" x={place.x + 32} y={place.y + 24}>
            {cut(name, 24)}
          </text>{" "}
          <text class="sub" x={place.x + place.w - 16} y={place.y + 24} text-anchor="end">
            {members.length}
          </text>
        </g>
      </g>
    </g>
  );
}

interface Closed {
  name: string;
  place: Place;
  members: Member[];
  edges: Edge[];
  toggle: (name: string) => void;
  faded: string;
  pointed: Pointed;
}

/** A namespace as one card, or what is outside of the mesh. */
export function ClosedGroup({ name, place, members, edges, toggle, faded, pointed }: Closed) {
  const outside = name === "";
  const open = members.filter((m) => captured(m).state !== "all" && !outside).length;
  const words = outside
    ? plural(members.filter((m) => m.owner !== OUTSIDE).length + 1, "peer group")
    : plural(members.length, "workload") + (open ? ` · ${open} not captured` : "");
  const shares = SECURED.map((kind) => ({
    kind,
    n: edges.filter((e) => e.secured === kind).reduce((n, e) => n + Math.log2(2 + e.connections), 0),
  }));
  const whole = shares.reduce((n, s) => n + s.n, 0);
  let x = place.x + 16;
  const wide = place.w - 32;
  const inside = (
    <g aria-hidden="true">
      <rect class="body" x={place.x} y={place.y} width={place.w} height={place.h} rx="14" />
      {!outside && (
        <path class="twist" d={`M${place.x + 18} ${place.y + 17}v10l6 -5z`} />
      )}
      <text class="title" x={place.x + (outside ? 16 : 32)} y={place.y + 27}>
        {outside ? "outside the mesh" : cut(name, 24)}
      </text>{" "}
      <text class="sub" x={place.x + 16} y={place.y + 47}>
        {outside ? "no workload" : words}
      </text>
      <rect class="strip" x={x} y={place.y + 58} width={wide} height="6" rx="3" />
      {whole > 0 &&
        shares
          .filter((s) => s.n > 0)
          .map(({ kind, n }) => {
            const part = (n / whole) * wide;
            const at = x;
            x += part;
            const w = Math.max(2, part - 1.5);
            return <rect key={kind} class={`share ${kind}`} x={at} y={place.y + 58} width={w} height="6" rx="3" />;
          })}
    </g>
  );
  if (outside) {
    return (
      <g class={`closed outside${faded}`} {...pointed}>
        {inside}
      </g>
    );
  }
  return (
    <g
      class={`closed${faded}`}
      aria-expanded="false"
      aria-label={`Namespace ${name} ${words}, expand`}
      {...pointed}
      {...pressed(() => toggle(name))}
    >
      {inside}
    </g>
  );
}

const cut = (text: string, most: number) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

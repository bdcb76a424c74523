import type { Secured as Kind } from "../api";
import { MEANING, SIGN, WORD } from "../secured";

/** What secures it, by sign, word and colour: each alone would do. */
export function Secured({ kind }: { kind: Kind | null }) {
  if (!kind) return <span class="muted">opening</span>;
  return (
    <span class={`secured ${kind}`} title={MEANING[kind]}>
      <span aria-hidden="true">{SIGN[kind]}</span> {WORD[kind]}
    </span>
  );
}

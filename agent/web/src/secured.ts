import type { Secured } from "./api";

/** What secures an edge, in the words and signs of `lark edges`, from the best to the worst. */
export const SECURED: readonly Secured[] = ["mtls", "same_node", "direct", "plaintext", "denied"];

export const SIGN: Record<Secured, string> = {
  mtls: "√",
  same_node: "=",
  direct: "~",
  plaintext: "✗",
  denied: "⊘",
};

export const WORD: Record<Secured, string> = {
  mtls: "mTLS",
  same_node: "same node",
  direct: "direct",
  plaintext: "plaintext",
  denied: "denied",
};

export const MEANING: Record<Secured, string> = {
  mtls: "a handshake proved both ends",
  same_node: "both ends known by cgroup; the bytes were never on a shared interface",
  direct: "same node, plaintext between the pods by choice",
  plaintext: "nothing secures it",
  denied: "refused, with a reason",
};

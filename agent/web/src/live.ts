// What is known now, asked again and again while the page is looked at.

import { useEffect, useReducer, useRef } from "preact/hooks";

import {
  ask,
  askNodes,
  NoAnswer,
  type About,
  type CertView,
  type CheckView,
  type ConnectionView,
  type EdgeView,
  type HistoryView,
  type NodeAnswer,
  type Status,
  type WorkloadView,
} from "./api";
import * as model from "./model";

export interface World {
  about: About;
  edges: model.Edge[];
  rates: ReadonlyMap<string, number>;
  connections: model.Connection[];
  pods: model.Member["pods"];
  members: Map<string, model.Member>;
  certs: ReturnType<typeof model.certs>;
  nodes: model.NodeState[];
  hours: model.Hour[];
  /** Nodes that said nothing, with the reason. */
  missing: { node: string; missing: string }[];
  /** When, in milliseconds. */
  at: number;
}

export interface Live {
  world: World | undefined;
  error: NoAnswer | undefined;
  paused: boolean;
  setPaused: (paused: boolean) => void;
}

type Answers = {
  edges: NodeAnswer<EdgeView[]>[];
  connections: NodeAnswer<ConnectionView[]>[];
  workloads: NodeAnswer<WorkloadView[]>[];
  certs: NodeAnswer<CertView[]>[];
  status: NodeAnswer<Status>[];
  check: NodeAnswer<CheckView[]>[];
  history: NodeAnswer<HistoryView>[];
};

/** Seconds from one question to the next: what moves is asked often, and a cluster less so than a node. */
const EVERY: Record<keyof Answers, [node: number, cluster: number]> = {
  edges: [2, 5],
  connections: [2, 5],
  workloads: [6, 20],
  status: [6, 20],
  check: [10, 30],
  certs: [10, 30],
  history: [15, 30],
};

const QUESTIONS = Object.keys(EVERY) as (keyof Answers)[];

/** What nodes say now; of one that says nothing what it said before, with the reason. */
function kept(before: NodeAnswer<unknown>[], now: NodeAnswer<unknown>[]): NodeAnswer<unknown>[] {
  const known = new Map(before.map((a) => [a.node, a.answer]));
  return now.map((a) => (a.missing === undefined ? a : { ...a, answer: known.get(a.node) }));
}

export function useLive(): Live {
  const [, redraw] = useReducer((n: number) => n + 1, 0);
  const state = useRef<Live>({
    world: undefined,
    error: undefined,
    paused: false,
    setPaused: (paused) => {
      state.current = { ...state.current, paused };
      redraw(0);
    },
  });

  useEffect(() => {
    let stopped = false;
    const rates = new model.Rates();
    const answers: Answers = {
      edges: [],
      connections: [],
      workloads: [],
      certs: [],
      status: [],
      check: [],
      history: [],
    };
    const due = new Map<keyof Answers, number>();
    let about: About | undefined;

    const turn = async () => {
      if ((state.current.paused || document.hidden) && state.current.world) return;
      const now = Date.now();
      try {
        about ??= await ask<About>("about");
        const column = about.node === null ? 1 : 0;
        const wanted = QUESTIONS.filter((question) => (due.get(question) ?? 0) <= now);
        if (wanted.length === 0) return;
        await Promise.all(
          wanted.map(async (question) => {
            (answers[question] as NodeAnswer<unknown>[]) = kept(answers[question], await askNodes(question));
            due.set(question, Date.now() + EVERY[question][column] * 1000 - 200);
          }),
        );
        const edges = model.edges(answers.edges);
        const telling = new Set(answers.edges.flatMap((a) => (a.answer === undefined ? [] : [a.node])));
        const pods = model.pods(answers.workloads);
        const asked = QUESTIONS.flatMap((q) => answers[q] as NodeAnswer<unknown>[]);
        const missing = new Map(asked.flatMap(({ node, missing }) => (missing ? [[node, missing]] : [])));
        const before = state.current.world;
        const world: World = {
          about,
          edges,
          rates: wanted.includes("edges") || !before ? rates.take(edges, telling, Date.now()) : before.rates,
          connections: model.connections(answers.connections),
          pods,
          members: model.members(pods, edges),
          certs: model.certs(answers.certs),
          nodes: model.nodes(answers.status, answers.check),
          hours: model.hours(answers.history),
          missing: [...missing].map(([node, why]) => ({ node, missing: why })),
          at: Date.now(),
        };
        state.current = { ...state.current, world, error: undefined };
      } catch (error) {
        const why = error instanceof NoAnswer ? error : new NoAnswer(String(error), false);
        state.current = { ...state.current, error: why };
      }
      if (!stopped) redraw(0);
    };

    const loop = async () => {
      while (!stopped) {
        await turn();
        // A secret that is not right does not become so.
        if (state.current.error?.locked) return;
        await new Promise((wake) => setTimeout(wake, state.current.error ? 2000 : 500));
      }
    };
    void loop();
    return () => {
      stopped = true;
    };
  }, []);

  return state.current;
}

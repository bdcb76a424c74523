import { useId } from "preact/hooks";

interface Props {
  values: (number | null)[];
  label: string;
  tone?: "calm" | "good" | "bad" | "warn";
  w?: number;
  h?: number;
  /** The value at the upper edge; the greatest there is if it is left out. */
  max?: number | undefined;
  /** The value at the lower edge, 0 if it is left out. */
  min?: number | undefined;
  /** Whether it is drawn as wide as there is room. */
  wide?: boolean;
}

/** The last hour as a line; gaps are where nothing was remembered. */
export function Spark({ values, label, tone = "calm", w = 120, h = 28, max, min = 0, wide }: Props) {
  const id = useId();
  const top = max ?? Math.max(1e-9, ...values.map((v) => v ?? 0));
  const x = (i: number) => Math.round((i / Math.max(1, values.length - 1)) * w * 10) / 10;
  const y = (v: number) => Math.round((h - 2 - (Math.max(0, Math.min(v, top) - min) / (top - min)) * (h - 5)) * 10) / 10;
  const pieces: string[] = [];
  let area = "";
  let run: [number, number][] = [];
  const flush = () => {
    const [first, last] = [run[0], run.at(-1)];
    if (!first || !last) return;
    const line = run.map(([px, py]) => `${px} ${py}`).join("L");
    pieces.push(run.length === 1 ? `M${first[0] - 1} ${first[1]}h2` : `M${line}`);
    if (run.length > 1) area += `M${first[0]} ${h}L${line}L${last[0]} ${h}Z`;
    run = [];
  };
  values.forEach((v, i) => (v === null ? flush() : run.push([x(i), y(v)])));
  flush();
  const last = values.at(-1);
  return (
    <svg class={`spark ${tone}`} width={w} height={h} viewBox={`0 0 ${w} ${h}`} preserveAspectRatio={wide ? "none" : "xMidYMid"} role="img" aria-label={label}>
      <linearGradient id={id} x1="0" y1="0" x2="0" y2="1">
        <stop offset="0" class="from" />
        <stop offset="1" class="to" />
      </linearGradient>
      <path class="base" d={`M0 ${h - 0.5}H${w}`} />
      <path d={area} fill={`url(#${id})`} />
      <path class="line" d={pieces.join("")} />
      {last != null && !wide && <circle class="dot" cx={w - 2} cy={y(last)} r="2" />}
    </svg>
  );
}

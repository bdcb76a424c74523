// Numbers and times as people say them.

export function bytes(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit++;
  }
  return unit === 0 ? `${Math.round(count)} B` : `${count.toFixed(count < 10 ? 1 : 0)} ${units[unit]}`;
}

export function count(n: number): string {
  if (n < 10_000) return Math.round(n).toLocaleString("en");
  if (n < 1e6) return `${(n / 1e3).toFixed(n < 1e5 ? 1 : 0)}k`;
  return `${(n / 1e6).toFixed(1)}M`;
}

export function rate(perSecond: number): string {
  if (perSecond === 0) return "0";
  if (perSecond < 0.1) return "<0.1";
  return perSecond < 100 ? perSecond.toFixed(1) : count(perSecond);
}

export function micros(us: number): string {
  if (us === 0) return "–";
  if (us < 1000) return `${us} µs`;
  if (us < 1e6) return `${(us / 1e3).toFixed(us < 1e4 ? 1 : 0)} ms`;
  return `${(us / 1e6).toFixed(1)} s`;
}

export function percent(part: number): string {
  if (part === 1) return "100 %";
  // 99.96 % is not all of it.
  return `${(Math.floor(part * 1000) / 10).toFixed(1)} %`;
}

export function duration(seconds: number): string {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60 ? `${s % 60} s` : ""}`.trim();
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

export const plural = (n: number, one: string, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** `account.namespace`, as in `lark edges`. */
export function shortId(identity: string): string {
  const found = /\/ns\/([^/]+)\/sa\/(.+)$/.exec(identity);
  return found ? `${found[2]}.${found[1]}` : identity;
}

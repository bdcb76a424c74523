import type { ComponentChildren } from "preact";
import { useMemo, useState } from "preact/hooks";

import { plural } from "../format";
import { byName } from "../model";

export interface Column<Row> {
  title: string;
  /** What is searched, and what the file for spreadsheets has. */
  value: (row: Row) => string | number;
  /** What it is sorted by, if not by that. */
  order?: (row: Row) => number;
  cell?: (row: Row) => ComponentChildren;
  /** Numbers stand to the right. */
  number?: boolean;
}

interface Props<Row> {
  label: string;
  rows: Row[];
  id: (row: Row) => string;
  columns: Column<Row>[];
  /** Name of the file that can be saved, without its ending. */
  file?: string;
  /** Nothing to search in a handful of rows. */
  search?: boolean;
  empty: string;
  sortBy?: number;
  descending?: boolean;
  children?: ComponentChildren;
}

const PAGE = 100;

/** A table that is sorted by its heads, searched, and saved as CSV: what is shown, in full. */
export function Table<Row>(props: Props<Row>) {
  const { label, rows, id, columns, file, empty, search = true } = props;
  const [sort, setSort] = useState<[number, boolean]>([props.sortBy ?? 0, props.descending ?? false]);
  const [words, setWords] = useState("");
  const [shown, setShown] = useState(PAGE);

  const found = useMemo(() => {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    const texts = (row: Row) => columns.map((c) => String(c.value(row))).join(" ").toLowerCase();
    const hits = wanted.length ? rows.filter((row) => wanted.every((word) => texts(row).includes(word))) : [...rows];
    const [at, descending] = sort;
    const column = columns[at] ?? columns[0];
    const value = column?.order ?? column?.value;
    if (value) {
      hits.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        const order = typeof x === "number" && typeof y === "number" ? x - y : byName(String(x), String(y));
        return (descending ? -order : order) || byName(id(a), id(b));
      });
    }
    return hits;
  }, [rows, words, sort, columns]);

  return (
    <section class="table" aria-label={label}>
      <div class="tools">
        {search && (
          <label class="search">
            <span class="sr">Search {label.toLowerCase()}</span>
            <input
              type="search"
              placeholder="Search…"
              value={words}
              onInput={(event) => setWords(event.currentTarget.value)}
            />
          </label>
        )}
        {props.children}
        {/* Rows come and go by themselves: only who searches is told how many there are. */}
        <span class="muted count" role={words ? "status" : undefined}>
          {found.length === rows.length ? plural(rows.length, "row") : `${found.length} of ${plural(rows.length, "row")}`}
        </span>
        {file && (
          <button type="button" onClick={() => save(`${file}.csv`, csv(columns, found))} disabled={!found.length}>
            Save as CSV
          </button>
        )}
      </div>
      {found.length === 0 ? (
        <p class="empty">{rows.length ? "Nothing matches." : empty}</p>
      ) : (
        <div class="scroll" tabIndex={0} role="region" aria-label={`${label}, scrollable`}>
          <table>
            <caption class="sr">{label}</caption>
            <thead>
              <tr>
                {columns.map((column, i) => {
                  const [at, descending] = sort;
                  const state = at !== i ? "none" : descending ? "descending" : "ascending";
                  return (
                    <th key={column.title} scope="col" aria-sort={state} class={column.number ? "number" : ""}>
                      <button type="button" onClick={() => setSort([i, at === i ? !descending : !!column.number])}>
                        {column.title}
                        <span class="arrow" aria-hidden="true">
                          {at !== i ? "" : descending ? "▾" : "▴"}
                        </span>
                      </button>
                    </th>
                  );
                })}
              </tr>
            </thead>
            <tbody>
              {found.slice(0, shown).map((row) => (
                <tr key={id(row)}>
                  {columns.map((column) => (
                    <td key={column.title} class={column.number ? "number" : ""}>
                      {column.cell ? column.cell(row) : column.value(row)}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {found.length > shown && (
        <button type="button" class="more" onClick={() => setShown(shown + 5 * PAGE)}>
          Show more ({found.length - shown} left)
        </button>
      )}
    </section>
  );
}

/** RFC 4180; a cell that a spreadsheet would take for a formula begins with an apostrophe. */
export function csv<Row>(columns: Column<Row>[], rows: Row[]): string {
  const cell = (value: string | number) => {
    const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [columns.map((c) => c.title), ...rows.map((row) => columns.map((c) => c.value(row)))];
  return lines.map((line) => line.map(cell).join(",") + "\r\n").join("");
}

function save(name: string, text: string) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

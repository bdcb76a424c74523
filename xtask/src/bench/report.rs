//! Pure: the table for people and the JSON for programs.

use serde_json::{Map, Value, json};

use super::bound;
use super::figures::{Figures, LARK, PLAIN, REFERENCE, RELAY};
use super::marks::judge;
use super::rows::Row;

/// Whose figures have a field of their own.
pub(crate) const FIXED: [&str; 4] = [PLAIN, RELAY, REFERENCE, LARK];

/// The whole result.
pub(crate) fn json(machine: &Value, rows: &[&Row], peers: &[String], figures: &Figures) -> Value {
    let rows: Vec<Value> = rows.iter().map(|row| json_row(row, peers, figures)).collect();
    json!({ "machine": machine, "rows": rows })
}

fn json_row(row: &Row, peers: &[String], figures: &Figures) -> Value {
    let value = |of: &str| json!(figures.median(row.name, of).map(short));
    let peers: Map<String, Value> = peers
        .iter()
        .map(|peer| {
            let ratio = figures.ratio(row.name, peer, PLAIN).map(short);
            (peer.clone(), json!({ "value": value(peer), "ratio": ratio }))
        })
        .collect();
    json!({
        "name": row.name,
        "unit": row.unit,
        "better": if row.more { "more" } else { "less" },
        PLAIN: value(PLAIN),
        RELAY: value(RELAY),
        REFERENCE: value(REFERENCE),
        LARK: value(LARK),
        "ratio": figures.ratio(row.name, LARK, PLAIN).map(short),
        "spread": figures.spread(row.name).map(short),
        "bound": bound::of(row.name, figures).map(|bound| json!({
            "value": short(bound.value),
            "relay": short(bound.relay),
            "reference": bound.reference.map(short),
            "idle": short(bound.idle),
        })),
        "peers": peers,
    })
}

/// The table, a line a row.
pub(crate) fn table(rows: &[&Row], peers: &[String], figures: &Figures) -> String {
    let contestants: Vec<&str> = FIXED.into_iter().chain(peers.iter().map(String::as_str)).collect();
    let mut lines = vec![line(
        ["row".to_owned(), "unit".to_owned()],
        contestants.iter().map(|c| (*c).to_owned()).chain(["×plain".to_owned(), "spread".to_owned()]),
        "mark",
    )];
    for row in rows {
        let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), display);
        let ratio = figures.ratio(row.name, LARK, PLAIN);
        let spread = figures.spread(row.name).map_or_else(|| "-".into(), |s| format!("{:.0} %", s * 100.0));
        let marks: Vec<String> = judge(row.name, figures)
            .into_iter()
            .map(|verdict| format!("{} {}", if verdict.met { "✓" } else { "✗" }, verdict.text))
            .chain(bound::of(row.name, figures).map(|bound| bound.text()))
            .collect();
        lines.push(line(
            [row.name.to_owned(), format!("{} {}", row.unit, if row.more { "↑" } else { "↓" })],
            contestants.iter().map(|c| cell(figures.median(row.name, c))).chain([cell(ratio), spread]),
            &marks.join("; "),
        ));
    }
    lines.join("\n")
}

fn line(left: [String; 2], right: impl Iterator<Item = String>, last: &str) -> String {
    let [name, unit] = left;
    let cells: String = right.map(|cell| format!("{cell:>10}")).collect();
    format!("{name:<21}{unit:<9}{cells}  {last}").trim_end().to_owned()
}

/// Three digits that count.
pub(crate) fn display(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Digits beyond the fourth decimal are noise.
fn short(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::super::marks::GIB;
    use super::super::rows::named;
    use super::*;

    fn figures() -> Figures {
        let mut figures = Figures::default();
        for (contestant, value) in
            [(PLAIN, 60.0), (RELAY, 30.0), (REFERENCE, 10.0), (LARK, 24.0), ("ztunnel", 12.0)]
        {
            figures.add("bulk1", contestant, 0, value);
        }
        // As much for sealing and opening as for all the rest.
        figures.add("aead", LARK, 0, 2.0 * GIB);
        figures.add("busy_gib1", RELAY, 0, 1.0);
        figures.add("idle_bulk1", RELAY, 0, 0.05);
        bound::add(&mut figures, 0);
        figures
    }

    #[test]
    fn json_has_the_shape_that_later_work_reads() {
        let rows = [named("bulk1").unwrap(), named("rss_1k").unwrap()];
        let machine = json!({ "kernel": "6.18" });
        let expected = json!({ "machine": { "kernel": "6.18" }, "rows": [
            {
                "name": "bulk1", "unit": "Gbit/s", "better": "more",
                "plain": 60.0, "relay": 30.0, "reference": 10.0, "lark": 24.0, "ratio": 0.4, "spread": 0.0,
                "bound": { "value": 15.0, "relay": 0.5, "reference": 1.5, "idle": 0.05 },
                "peers": { "ztunnel": { "value": 12.0, "ratio": 0.2 } },
            },
            {
                "name": "rss_1k", "unit": "MiB", "better": "less",
                "plain": null, "relay": null, "reference": null, "lark": null, "ratio": null, "spread": null,
                "bound": null,
                "peers": { "ztunnel": { "value": null, "ratio": null } },
            },
        ] });
        assert_eq!(json(&machine, &rows, &["ztunnel".into()], &figures()), expected);
    }

    #[test]
    fn the_table_has_a_line_a_row_with_its_marks() {
        let table = table(&[named("bulk1").unwrap()], &[], &figures());
        let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            words[0],
            ["row", "unit", "plain", "relay", "reference", "lark", "×plain", "spread", "mark"]
        );
        assert_eq!(words[1][..8], ["bulk1", "Gbit/s", "↑", "60.0", "30.0", "10.0", "24.0", "0.400"]);
        let marks = "✓ ≥ 1.7 × reference (2.40); bound 15.0 (1.50 × reference, 0.50 × relay; 5 % idle)";
        assert!(table.ends_with(marks), "{table}");
    }
}

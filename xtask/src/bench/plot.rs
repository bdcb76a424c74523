//! Pure: a picture of the result, a panel for each row with a scale of its own.

use std::fmt::Write;

use serde_json::Value;

use super::report::{FIXED, display};
use crate::picture::{HEAD, MARGIN, PANEL, escape, frame, heading};

/// Sizes in pixels.
const BAR: usize = 17;
const TITLE: usize = 30;
const NAME: usize = 76;
/// The longest bar; a value stands right of it.
const LONGEST: f64 = 265.0;

/// Draws what [`super::report::json`] made, with a caption.
pub(crate) fn draw(result: &Value, caption: &str) -> String {
    let rows: Vec<(&Value, Vec<Bar>)> = result["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| (row, bars(row)))
        // A single bar compares nothing.
        .filter(|(_, bars)| bars.len() > 1)
        .collect();
    let (mut body, mut top) = (String::new(), HEAD);
    for pair in rows.chunks(2) {
        for (column, (row, bars)) in pair.iter().enumerate() {
            panel(&mut body, row, bars, MARGIN + column * PANEL, top);
        }
        top += TITLE + BAR * pair.iter().map(|(_, bars)| bars.len()).max().unwrap_or(0) + 14;
    }
    let title = "Between the same two pods, medians of one run; each panel has its own scale";
    frame(title, caption, &body, top)
}

struct Bar {
    name: String,
    value: f64,
    colour: usize,
}

fn bars(row: &Value) -> Vec<Bar> {
    let fixed = FIXED.iter().enumerate().filter_map(|(colour, name)| {
        Some(Bar { name: (*name).to_owned(), value: row[*name].as_f64()?, colour })
    });
    let peers =
        row["peers"].as_object().into_iter().flatten().enumerate().filter_map(|(number, (name, peer))| {
            let colour = FIXED.len() + number % 3;
            Some(Bar { name: name.clone(), value: peer["value"].as_f64()?, colour })
        });
    fixed.chain(peers).collect()
}

fn panel(out: &mut String, row: &Value, bars: &[Bar], left: usize, top: usize) {
    let text = |name: &str| row[name].as_str().unwrap_or_default();
    let most = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    out.push_str(&heading(
        left,
        top,
        text("name"),
        &format!("{}, {} is better", text("unit"), text("better")),
    ));
    let mut line = |text: String| {
        // Writing into a string cannot fail.
        let _ = writeln!(out, "{text}");
    };
    for (number, bar) in bars.iter().enumerate() {
        let y = top + TITLE - 4 + number * BAR;
        let (start, length) = (left + NAME, LONGEST * bar.value / most);
        line(format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect class=\"c{}\" x=\"{start}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" rx=\"2\"/>\
             <text class=\"small\" x=\"{:.1}\" y=\"{}\">{}</text>",
            start - 6,
            y + 11,
            escape(&bar.name),
            bar.colour,
            BAR - 4,
            6.0 + length + start as f64,
            y + 11,
            display(bar.value),
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::draw;

    #[test]
    fn every_figure_that_can_be_compared_has_a_bar() {
        let picture = draw(
            &json!({ "rows": [
                { "name": "bulk1", "unit": "Gbit/s", "better": "more", "plain": 60.0, "lark": 24.0,
                  "relay": null, "peers": { "a<b": { "value": 12.0 } } },
                { "name": "aead", "unit": "GB/s", "better": "more", "lark": 18.0, "peers": {} },
            ] }),
            "Linux & co",
        );
        assert_eq!(picture.matches("<rect class=\"c").count(), 3);
        assert!(
            picture.contains("bulk1") && picture.contains("a&lt;b") && picture.contains("Linux &amp; co")
        );
        assert!(!picture.contains("aead"));
        assert_eq!(picture.matches("<svg").count(), picture.matches("</svg>").count());
    }
}

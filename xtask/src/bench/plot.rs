//! Pure: a picture of the result, a panel for each row with a scale of its own.

use std::fmt::Write;

use serde_json::Value;

use super::report::{FIXED, display};

/// Sizes in pixels.
const PANEL: usize = 430;
const BAR: usize = 17;
const TITLE: usize = 30;
const HEAD: usize = 78;
const NAME: usize = 76;
/// The longest bar; a value stands right of it.
const LONGEST: f64 = 265.0;

/// Colours of the viewer's own scheme; peers take turns at the last three.
const STYLE: &str = "\
<style>\
text{font:12px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600}.small{fill:#59636e}\
.ground{fill:#fff}.c0{fill:#8c959f}.c1{fill:#b6c2cf}.c2{fill:#d4884a}.c3{fill:#1a7f5a}\
.c4{fill:#8250df}.c5{fill:#bf3989}.c6{fill:#0969da}\
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.ground{fill:#0d1117}\
.c0{fill:#7d8590}.c1{fill:#4d5761}.c2{fill:#e0995e}.c3{fill:#3fb984}.c4{fill:#ab7df8}.c5{fill:#db61a2}.c6{fill:#4493f8}}\
</style>";

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
            panel(&mut body, row, bars, 16 + column * PANEL, top);
        }
        top += TITLE + BAR * pair.iter().map(|(_, bars)| bars.len()).max().unwrap_or(0) + 14;
    }
    let width = 16 + 2 * PANEL;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {top}\" width=\"{width}\" height=\"{top}\">\
         {STYLE}\n<rect class=\"ground\" width=\"{width}\" height=\"{top}\"/>\n\
         <text class=\"title\" x=\"16\" y=\"26\">Between the same two pods, medians of one run; each panel has its own scale</text>\n\
         <text class=\"small\" x=\"16\" y=\"46\">{}</text>\n{body}</svg>\n",
        escape(caption)
    )
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
    let text = |name: &str| escape(row[name].as_str().unwrap_or_default());
    let most = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let mut line = |text: String| {
        // Writing into a string cannot fail.
        let _ = writeln!(out, "{text}");
    };
    line(format!(
        "<text x=\"{left}\" y=\"{}\"><tspan class=\"title\">{}</tspan> <tspan class=\"small\">{}, {} is better</tspan></text>",
        top + 16,
        text("name"),
        text("unit"),
        text("better"),
    ));
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

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
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

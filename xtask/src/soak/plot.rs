//! Pure: a run as a picture: lines over time, and a mark for each upgrade and kill.

use std::fmt::Write;

use super::judge::{Kind, Run, Sample};
use crate::picture::{HEAD, MARGIN, PANEL, escape, frame, heading};

/// Sizes in pixels.
const HEIGHT: f64 = 120.0;
const ROW: usize = 196;
/// Left of the lines, for the numbers.
const AXIS: usize = 52;
const WIDTH: f64 = 352.0;
/// Most points of a line; each stands for the highest of its share, so that no peak is lost.
const POINTS: usize = 176;

/// A line: its name, its colour's class, its points.
struct Line {
    name: String,
    colour: usize,
    points: Vec<(f64, f64)>,
}

/// Draws a run, with a caption.
pub(crate) fn draw(run: &Run, caption: &str) -> String {
    let end = run.samples.last().map_or(1.0, |sample| sample.at).max(1.0);
    let panels: [(&str, &str, Vec<Line>); 4] = [
        ("memory", "MiB resident", held(run, |sample, name| Some(sample.held.get(name)?.memory))),
        ("descriptors", "", held(run, |sample, name| Some(float(sample.held.get(name)?.descriptors)))),
        ("entries", "of both agents' maps, and pinned links", entries(run)),
        ("failures", "refused, reset or stalled, altogether", failures(run)),
    ];
    let mut body = String::new();
    for (number, (title, small, lines)) in panels.iter().enumerate() {
        let (left, top) = (MARGIN + number % 2 * PANEL, HEAD + number / 2 * ROW);
        body.push_str(&heading(left, top, title, small));
        panel(&mut body, run, lines, end, left, top + 26);
    }
    let title = "Traffic without a pause, while pods, certificates and agents come and go";
    let caption = format!("{caption}; thin lines: the second agent upgraded (blue), killed (red)");
    frame(title, &caption, &body, HEAD + 2 * ROW)
}

#[expect(clippy::cast_precision_loss, reason = "a picture is no more precise")]
fn float(number: u64) -> f64 {
    number as f64
}

fn held(run: &Run, value: impl Fn(&Sample, &str) -> Option<f64>) -> Vec<Line> {
    [("agent one", 3), ("agent two", 2), ("controller", 4)]
        .map(|(name, colour)| Line {
            name: name.to_owned(),
            colour,
            points: run.series(|sample| value(sample, name)),
        })
        .into()
}

fn entries(run: &Run) -> Vec<Line> {
    let names = run.samples.first().map(|sample| sample.entries.keys().cloned().collect::<Vec<_>>());
    let colours = [3, 2, 4, 0].into_iter().cycle();
    let named = names.unwrap_or_default().into_iter().zip(colours);
    named
        .map(|(name, colour)| Line {
            points: run.series(|sample| sample.entries.get(&name).copied().map(float)),
            name,
            colour,
        })
        .collect()
}

fn failures(run: &Run) -> Vec<Line> {
    let sum = |sample: &Sample| float(sample.traffic.values().map(|tally| tally.failed).sum());
    vec![Line { name: "all traffic".to_owned(), colour: 2, points: run.series(|sample| Some(sum(sample))) }]
}

fn panel(out: &mut String, run: &Run, lines: &[Line], end: f64, left: usize, top: usize) {
    #[expect(clippy::cast_precision_loss, reason = "pixels")]
    let (x0, y0) = ((left + AXIS) as f64, top as f64);
    let most = lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value).fold(1.0, f64::max);
    let place = |(at, value): (f64, f64)| (x0 + WIDTH * at / end, y0 + HEIGHT * (1.0 - value / most));
    // Writing into a string cannot fail.
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    for (part, value) in [(0.0, most), (0.5, most / 2.0), (1.0, 0.0)] {
        let y = y0 + HEIGHT * part;
        line(format!(
            "<path class=\"rule\" d=\"M{x0} {y}h{WIDTH}\"/><text class=\"small\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            x0 - 6.0,
            y + 4.0,
            number(value)
        ));
    }
    for event in &run.events {
        let class = if event.kind == Kind::Upgrade { "up" } else { "kill" };
        let (x, _) = place((event.from, 0.0));
        line(format!("<path class=\"{class}\" d=\"M{x:.1} {y0}v{HEIGHT}\"/>"));
    }
    let mut legend = x0;
    for Line { name, colour, points } in lines {
        let highest = |share: &[(f64, f64)]| share.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
        let thinned = points.chunks(points.len().div_ceil(POINTS).max(1)).filter_map(highest);
        let path: Vec<String> = thinned
            .map(|point| {
                let (x, y) = place(point);
                format!("{x:.1} {y:.1}")
            })
            .collect();
        line(format!("<path class=\"s s{colour}\" d=\"M{}\"/>", path.join("L")));
        line(format!(
            "<text class=\"small c{colour}\" x=\"{legend}\" y=\"{}\">{}</text>",
            y0 + HEIGHT + 16.0,
            escape(name)
        ));
        legend += 14.0 + 7.0 * float(u64::try_from(name.chars().count()).unwrap_or_default());
    }
    line(format!(
        "<text class=\"small\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{} min</text>",
        x0 + WIDTH,
        y0 + HEIGHT + 16.0,
        number(end / 60.0)
    ));
}

fn number(value: f64) -> String {
    if value >= 10.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::judge::{Event, Held};
    use super::*;

    #[test]
    fn every_series_is_a_line_and_every_event_a_mark_in_each_panel() {
        let sample = |at| Sample {
            at,
            held: BTreeMap::from([("agent one", Held { memory: 10.0, descriptors: 50 })]),
            entries: BTreeMap::from([("FLOWS".to_owned(), 1), ("LINKS".to_owned(), 7)]),
            ..Sample::default()
        };
        let run = Run {
            samples: vec![sample(0.0), sample(60.0)],
            events: vec![Event { kind: Kind::Kill, from: 30.0, to: 31.0 }],
            ..Run::default()
        };
        let picture = draw(&run, "Linux & co");
        assert_eq!(picture.matches("<path class=\"s s").count(), 3 + 3 + 2 + 1);
        assert_eq!(picture.matches("<path class=\"kill\"").count(), 4);
        assert!(picture.contains("Linux &amp; co") && picture.contains("1 min"));
        assert_eq!(picture.matches("<svg").count(), picture.matches("</svg>").count());
    }
}

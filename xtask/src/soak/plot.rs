//! Pure: a run as a picture: lines over time, and a mark for each upgrade and kill.

use super::judge::{Kind, Run, Sample};
use crate::picture::{HEAD, Line, MARGIN, Mark, PANEL, ROW, frame, heading, lines};

/// Draws a run, with a caption.
pub(crate) fn draw(run: &Run, caption: &str) -> String {
    let end = run.samples.last().map_or(1.0, |sample| sample.at).max(1.0);
    let panels: [(&str, &str, Vec<Line>); 4] = [
        ("memory", "MiB resident", held(run, |sample, name| Some(sample.held.get(name)?.memory))),
        ("descriptors", "", held(run, |sample, name| Some(float(sample.held.get(name)?.descriptors)))),
        ("entries", "of both agents' maps, and pinned links", entries(run)),
        ("failures", "refused, reset or stalled, altogether", failures(run)),
    ];
    let events = run.events.iter();
    let marks: Vec<Mark> =
        events.map(|event| (if event.kind == Kind::Upgrade { "up" } else { "kill" }, event.from)).collect();
    let mut body = String::new();
    for (number, (title, small, all)) in panels.iter().enumerate() {
        let (left, top) = (MARGIN + number % 2 * PANEL, HEAD + number / 2 * ROW);
        body.push_str(&heading(left, top, title, small));
        body.push_str(&lines(all, &marks, (end, 60.0, "min"), left, top + 26));
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

//! Latency before and after the label, over time, as a picture: what a probe from outside would draw.

use anyhow::{Context, Result, ensure};

use crate::picture::{HEAD, Line, MARGIN, PANEL, ROW, frame, heading, lines};

/// Requests a second, each on a new connection.
pub(super) const RATE: usize = 50;
/// Seconds before the label, and as many after it.
pub(super) const SECONDS: usize = 15;

/// What curl writes of a request, in seconds: until connect() returned, and until the answer's last byte.
pub(super) const FORMAT: &str = "%{http_code} %{time_connect} %{time_total}\\n";

/// One request, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    connect: f64,
    total: f64,
}

/// One of its times.
type Of = fn(&Sample) -> f64;

/// The requests that were answered, in order; those that failed are an error.
pub(super) fn parse(log: &str) -> Result<Vec<Sample>> {
    let sample = |line: &str| {
        let mut words = line.split(' ');
        ensure!(words.next() == Some("200"), "a request was not answered with 200: {line}");
        let mut micros = || {
            let word = words.next().with_context(|| format!("curl tells no time: {line}"))?;
            anyhow::Ok(word.parse::<f64>()? * 1e6)
        };
        Ok(Sample { connect: micros()?, total: micros()? })
    };
    log.lines().map(sample).collect()
}

/// Medians of whole requests before and after the label, in microseconds.
pub(super) fn medians(samples: &[Sample], label: usize) -> Option<(f64, f64)> {
    let of = |samples: &[Sample]| quantile(samples.iter().map(|sample| sample.total).collect(), 0.5);
    // The request that was under way at that moment is of neither.
    Some((of(samples.get(..label)?)?, of(samples.get(label + 1..)?)?))
}

/// Draws them; `label` is how many had ended when the label was set.
pub(super) fn draw(samples: &[Sample], label: usize, caption: &str) -> String {
    let panels: [(&str, &str, Of); 2] = [
        ("connect() and one request", "µs, new connection each time", |sample| sample.total),
        ("connect() alone", "µs; captured, it returns before the far end is known", |sample| sample.connect),
    ];
    let end = seconds(samples.len());
    let mut body = String::new();
    for (number, (title, small, of)) in panels.into_iter().enumerate() {
        let left = MARGIN + number * PANEL;
        body.push_str(&heading(left, HEAD, title, small));
        let all = [("median", 0.5, 3), ("95 of 100", 0.95, 2)].map(|(name, q, colour)| Line {
            name: name.to_owned(),
            colour,
            points: each_second(samples, of, q),
        });
        body.push_str(&lines(&all, &[("up", seconds(label))], (end, 1.0, "s"), left, HEAD + 26));
    }
    frame("Latency before and after the label lark.mesh/capture", caption, &body, HEAD + ROW)
}

/// When so many requests had ended.
#[expect(clippy::cast_precision_loss, reason = "a picture is no more precise")]
fn seconds(requests: usize) -> f64 {
    requests as f64 / RATE as f64
}

/// A quantile of each second's requests.
fn each_second(samples: &[Sample], of: Of, q: f64) -> Vec<(f64, f64)> {
    let value = |(second, share): (usize, &[Sample])| {
        let middle = seconds(second * RATE + share.len() / 2);
        Some((middle, quantile(share.iter().map(of).collect(), q)?))
    };
    samples.chunks(RATE).enumerate().filter_map(value).collect()
}

fn quantile(mut values: Vec<f64>, q: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index within the values"
    )]
    let at = (values.len().saturating_sub(1) as f64 * q).round() as usize;
    values.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_is_a_point_and_the_label_a_mark() {
        let log = (0..4 * RATE).map(|i| format!("200 0.0001 {}\n", if i < 2 * RATE { 0.001 } else { 0.002 }));
        let samples = parse(&log.collect::<String>()).unwrap();
        let medians = medians(&samples, 2 * RATE).map(|(before, after)| (before.round(), after.round()));
        assert_eq!(medians, Some((1000.0, 2000.0)));
        let points = each_second(&samples, |sample| sample.total, 0.5);
        assert_eq!(points.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0.5, 1.5, 2.5, 3.5]);
        let picture = draw(&samples, 2 * RATE, "a & b");
        assert_eq!(picture.matches("<path class=\"s s").count(), 4);
        assert_eq!(picture.matches("<path class=\"up\"").count(), 2);
        assert!(picture.contains("a &amp; b") && picture.contains(">4 s<"));
    }

    #[test]
    fn a_request_that_failed_is_no_figure() {
        assert!(parse("200 0.0001 0.0002\n000 0.0 0.1\n").unwrap_err().to_string().contains("000 0.0 0.1"));
    }
}

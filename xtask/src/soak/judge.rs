//! Pure: a run's samples and events, and whether something leaked or broke.

use std::collections::BTreeMap;

use serde::Serialize;

/// Part of the run that is not judged for slope: caches, allocators and tables get warm.
const WARM: f64 = 0.25;
/// Seconds after a killed agent's successor is there within which failures are the kill's: programs notice
/// when they next read or write, and are sampled once a second.
const AFTERMATH: f64 = 8.0;
/// Seconds after which a client that has neither succeeded nor failed counts as stuck.
const STUCK: f64 = 60.0;
/// Most samples of which slopes are taken, since every pair counts.
const POINTS: usize = 400;

/// What was done to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Another one took over.
    Upgrade,
    /// It was killed, and another one started.
    Kill,
}

/// One such thing, in seconds from the beginning: until the next agent carried everything.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// What a kind of traffic has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    /// Rounds or connections that went well.
    pub(crate) good: u64,
    /// That were refused, reset or stalled.
    pub(crate) failed: u64,
    /// Wrong answers; for the echo wrong bytes.
    pub(crate) wrong: u64,
    /// Bytes that were compared.
    pub(crate) compared: u64,
}

/// What a process holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Held {
    /// Resident memory, MiB.
    pub(crate) memory: f64,
    /// Descriptors.
    pub(crate) descriptors: u64,
}

/// One look at everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// Seconds from the beginning.
    pub(crate) at: f64,
    /// By process: `agent one`, `agent two`, `controller`.
    pub(crate) held: BTreeMap<&'static str, Held>,
    /// Entries of both agents' maps, by map; links by `LINKS`.
    pub(crate) entries: BTreeMap<String, u64>,
    /// By kind of traffic.
    pub(crate) traffic: BTreeMap<&'static str, Tally>,
}

/// What must be the same before and after.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Rest {
    /// Files below both agents' places on bpffs.
    pub(crate) pins: usize,
    /// Pinned links of both nodes.
    pub(crate) links: usize,
    /// Entries of both agents' maps, by map.
    pub(crate) entries: BTreeMap<String, u64>,
    /// Network namespaces of the bed.
    pub(crate) namespaces: usize,
    /// What `lark check` finds wrong.
    pub(crate) complaints: Vec<String>,
}

/// A whole run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Run {
    pub(crate) samples: Vec<Sample>,
    pub(crate) events: Vec<Event>,
    /// Pods that lived.
    pub(crate) pods: Tally,
    /// Certificates that the controller issued.
    pub(crate) certificates: usize,
    /// Before the traffic.
    pub(crate) at_rest: Rest,
    /// After it.
    pub(crate) after: Rest,
    /// What clients and agents said when something failed without a cause, and last.
    pub(crate) words: Vec<String>,
}

/// One judgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) met: bool,
    pub(crate) sentence: String,
}

impl Run {
    /// A line for who watches.
    pub(crate) fn summary(&self) -> String {
        let Some(last) = self.samples.last() else { return String::new() };
        let all = last.traffic.values().fold(Tally::default(), |sum, t| Tally {
            good: sum.good + t.good,
            failed: sum.failed + t.failed,
            wrong: sum.wrong + t.wrong,
            compared: sum.compared + t.compared,
        });
        format!(
            "{} rounds, {} of them failed, {} MB compared, {} wrong, {} pods, {} agents",
            all.good + all.failed,
            all.failed,
            all.compared / 1_000_000,
            all.wrong,
            self.pods.good,
            self.events.len()
        )
    }

    /// How often that happened.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.events.iter().filter(|event| event.kind == kind).count()
    }

    fn is_of_a_kill(&self, at: f64) -> bool {
        let kills = self.events.iter().filter(|event| event.kind == Kind::Kill);
        kills.into_iter().any(|kill| at >= kill.from && at <= kill.to + AFTERMATH)
    }

    /// Kinds of traffic that failed between the last two samples although no kill explains it.
    pub(crate) fn unexplained(&self) -> Vec<&'static str> {
        let [.., before, last] = self.samples.as_slice() else { return Vec::new() };
        if self.is_of_a_kill(last.at) {
            return Vec::new();
        }
        let failed = |sample: &Sample, kind: &str| sample.traffic.get(kind).map_or(0, |tally| tally.failed);
        let kinds = last.traffic.keys().copied();
        kinds.filter(|kind| failed(last, kind) > failed(before, kind)).collect()
    }

    /// Failures of a kind of traffic outside of kills, and inside.
    fn failures(&self, traffic: &str) -> (u64, u64) {
        let (mut unexpected, mut expected, mut before) = (0, 0, 0);
        for sample in &self.samples {
            let failed = sample.traffic.get(traffic).map_or(before, |tally| tally.failed);
            let more = failed.saturating_sub(before);
            if self.is_of_a_kill(sample.at) {
                expected += more
            } else {
                unexpected += more
            }
            before = failed;
        }
        (unexpected, expected)
    }

    /// The longest time in which a kind of traffic neither succeeded nor failed.
    fn pause(&self, traffic: &str) -> f64 {
        let (mut rounds, mut since, mut longest) = (0, 0.0, 0.0_f64);
        for sample in &self.samples {
            let now = sample.traffic.get(traffic).map_or(0, |t| t.good + t.failed + t.wrong);
            longest = longest.max(sample.at - since);
            if now != rounds {
                (rounds, since) = (now, sample.at);
            }
        }
        longest
    }

    /// A value over time, of the samples that have it.
    pub(crate) fn series(&self, value: impl Fn(&Sample) -> Option<f64>) -> Vec<(f64, f64)> {
        self.samples.iter().filter_map(|sample| Some((sample.at, value(sample)?))).collect()
    }
}

/// Everything that is judged, in the order of the report.
pub(crate) fn judge(run: &Run) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for process in ["agent one", "controller"] {
        let memory = run.series(|s| Some(s.held.get(process)?.memory));
        verdicts
            .push(flat(&format!("memory of {process}"), "MiB", &memory, |median| (median * 0.1).max(3.0)));
        #[expect(clippy::cast_precision_loss, reason = "descriptors are few")]
        let descriptors = run.series(|s| Some(s.held.get(process)?.descriptors as f64));
        verdicts.push(flat(&format!("descriptors of {process}"), "", &descriptors, |median| {
            (median * 0.1).max(12.0)
        }));
    }
    let kinds: Vec<&str> =
        run.samples.last().map(|s| s.traffic.keys().copied().collect()).unwrap_or_default();
    for kind in kinds {
        let tally = run.samples.last().and_then(|s| s.traffic.get(kind)).copied().unwrap_or_default();
        let (unexpected, expected) = run.failures(kind);
        let pause = run.pause(kind);
        verdicts.push(Verdict {
            met: unexpected == 0 && tally.wrong == 0 && tally.good > 0 && pause < STUCK,
            sentence: format!(
                "{kind}: {} went well, {} wrong, {unexpected} failed without a cause, {expected} by a killed agent; \
                 at most {pause:.0} s without a round",
                tally.good, tally.wrong
            ),
        });
    }
    // Half of a life apart at the most, for each pod that stays.
    let seconds = run.samples.last().map_or(0.0, |sample| sample.at);
    #[expect(clippy::cast_precision_loss, reason = "certificates are few")]
    let renewed = run.certificates as f64 >= seconds / 30.0;
    let sentence = format!("certificates: {} were issued in {seconds:.0} s", run.certificates);
    verdicts.push(Verdict { met: renewed && seconds > 0.0, sentence });
    let same = |what: &str, before: String, after: String| Verdict {
        met: before == after,
        sentence: format!("{what}: {before} before the traffic, {after} after it"),
    };
    let (before, after) = (&run.at_rest, &run.after);
    verdicts.push(same("pins", before.pins.to_string(), after.pins.to_string()));
    verdicts.push(same("links", before.links.to_string(), after.links.to_string()));
    verdicts.push(same("network namespaces", before.namespaces.to_string(), after.namespaces.to_string()));
    verdicts.push(same("entries", entries(before), entries(after)));
    verdicts.push(Verdict {
        met: after.complaints.is_empty(),
        sentence: match after.complaints.as_slice() {
            [] => "`lark check` finds nothing wrong on either node".to_owned(),
            some => format!("`lark check` finds: {}", some.join("; ")),
        },
    });
    verdicts
}

fn entries(rest: &Rest) -> String {
    rest.entries.iter().map(|(map, count)| format!("{map} {count}")).collect::<Vec<_>>().join(", ")
}

/// Whether a value does not grow: by its slope, the growth over the judged time must stay below what `most`
/// makes of the median.
fn flat(what: &str, unit: &str, series: &[(f64, f64)], most: impl Fn(f64) -> f64) -> Verdict {
    let from = series.last().map_or(0.0, |(at, _)| at * WARM);
    let warm: Vec<(f64, f64)> = series.iter().copied().filter(|(at, _)| *at >= from).collect();
    let values: Vec<f64> = warm.iter().map(|(_, value)| *value).collect();
    let (Some(slope), Some(median)) = (slope(&warm), median(values)) else {
        return Verdict { met: false, sentence: format!("{what}: there are not enough samples") };
    };
    let time = warm.last().map_or(0.0, |(at, _)| at - from);
    let (growth, most) = (slope * time, most(median));
    Verdict {
        met: growth <= most,
        sentence: format!(
            "{what}: median {median:.1} {unit}, grew by {growth:.1} in {time:.0} s, may grow by {most:.1}"
        )
        .replace("  ", " ")
        .replace(" ,", ","),
    }
}

/// The median of the slopes between all pairs of points (Theil and Sen): up to three in ten points may lie
/// anywhere without moving it.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let step = points.len().div_ceil(POINTS).max(1);
    let points: Vec<(f64, f64)> = points.iter().copied().step_by(step).collect();
    let mut slopes = Vec::new();
    for (number, (at, value)) in points.iter().enumerate() {
        let later = points.iter().skip(number + 1).filter(|(later, _)| later > at);
        slopes.extend(later.map(|(later, other)| (other - value) / (later - at)));
    }
    median(slopes)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(growth: f64) -> Vec<(f64, f64)> {
        (0..100_u8).map(f64::from).map(|at| (at, 50.0 + growth * at + (at % 3.0))).collect()
    }

    #[test]
    fn a_leak_is_found_and_noise_and_spikes_are_not() {
        let judged = |series: &[(f64, f64)]| flat("memory", "MiB", series, |_| 3.0).met;
        assert!(judged(&line(0.0)) && judged(&line(-0.5)));
        assert!(!judged(&line(0.1)));
        let mut spikes = line(0.0);
        spikes.iter_mut().step_by(5).for_each(|(_, value)| *value = 500.0);
        assert!(judged(&spikes));
        // What happens while it gets warm does not count.
        let mut warm = line(0.0);
        warm.iter_mut().take(20).for_each(|(_, value)| *value = 1.0);
        assert!(judged(&warm));
        assert!(!judged(&[]));
    }

    /// A round a second until then.
    fn run_until(failed_at: f64, stuck_at: u8) -> Run {
        let sample = |second: u8| {
            let at = f64::from(second);
            let failed = u64::from(at >= failed_at);
            let tally = Tally { good: second.min(stuck_at).into(), failed, ..Tally::default() };
            Sample { at, traffic: BTreeMap::from([("curl", tally)]), ..Sample::default() }
        };
        let event = |kind, from| Event { kind, from, to: from + 1.0 };
        Run {
            samples: (0..100).map(sample).collect(),
            events: vec![event(Kind::Upgrade, 20.0), event(Kind::Kill, 50.0)],
            ..Run::default()
        }
    }

    fn run(failed_at: f64) -> Run {
        run_until(failed_at, u8::MAX)
    }

    #[test]
    fn a_client_that_is_stuck_is_found() {
        for (stuck_at, pause, met) in [(u8::MAX, "1 s", true), (50, "49 s", true), (20, "79 s", false)] {
            let verdicts = judge(&run_until(1000.0, stuck_at));
            let curl = verdicts.iter().find(|v| v.sentence.starts_with("curl")).unwrap();
            assert!(curl.sentence.ends_with(&format!("at most {pause} without a round")), "{curl:?}");
            assert_eq!(curl.met, met, "{curl:?}");
        }
    }

    #[test]
    fn a_failure_is_a_kills_only_around_it_and_never_an_upgrades() {
        for (at, counts) in [(49.0, (1, 0)), (50.0, (0, 1)), (59.0, (0, 1)), (60.0, (1, 0)), (20.5, (1, 0))] {
            assert_eq!(run(at).failures("curl"), counts, "at {at}");
            // Told as soon as it is sampled.
            let mut run = run(at);
            run.samples.retain(|sample| sample.at < at + 1.0);
            assert_eq!(run.unexplained().len() as u64, counts.0, "at {at}");
        }
        let sentence = "curl: 99 went well, 0 wrong, 1 failed without a cause, 0 by a killed agent; \
                        at most 1 s without a round";
        assert!(judge(&run(20.0)).contains(&Verdict { met: false, sentence: sentence.to_owned() }));
    }

    #[test]
    fn what_is_left_over_and_what_is_wrong_is_told() {
        let mut run = run(1000.0);
        run.after.pins = 3;
        run.after.complaints = vec!["a stray".to_owned()];
        let failed: Vec<String> = judge(&run).into_iter().filter(|v| !v.met).map(|v| v.sentence).collect();
        assert!(failed.contains(&"pins: 0 before the traffic, 3 after it".to_owned()), "{failed:?}");
        assert!(failed.contains(&"`lark check` finds: a stray".to_owned()), "{failed:?}");
    }
}

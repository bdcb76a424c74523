//! Pure: what each row must reach.

use super::figures::{Figures, LARK, PLAIN, REFERENCE, RELAY};

/// Bytes of a GiB in those of a GB.
pub(crate) const GIB: f64 = 1.073_741_824;

/// GB/s of the cipher from which on a machine counts as fast.
const FAST: f64 = 10.0;

/// One thing that Lark must reach.
#[derive(Debug, Clone, Copy)]
enum Mark {
    /// At least this part of what another does.
    AtLeast(f64, &'static str),
    /// At most this many times what another does.
    AtMost(f64, &'static str),
    /// As [`Mark::AtLeast`], where the cipher is fast.
    FastAtLeast(f64, &'static str),
    /// At least this many, in the row's unit.
    Least(f64),
    /// At most this many, in the row's unit.
    Most(f64),
    /// As [`Mark::Most`], where the cipher is fast.
    FastMost(f64),
    /// At most this many times the floor: the relay's CPU, and each byte sealed once and opened once.
    Floor(f64),
}

use Mark::{AtLeast, AtMost, FastAtLeast, FastMost, Floor, Least, Most};

const BULK: &[Mark] = &[FastAtLeast(0.8, RELAY), FastAtLeast(2.5, REFERENCE), AtLeast(1.7, REFERENCE)];

/// The marks of each row.
const MARKS: [(&str, &[Mark]); 26] = [
    ("bulk1", BULK),
    ("bulk8", BULK),
    ("bulk1_down", BULK),
    ("cpu_gib1", &[Floor(1.15)]),
    ("cpu_gib8", &[Floor(1.15)]),
    ("echo1_p50", &[AtMost(1.5, PLAIN)]),
    ("echo1_p99", &[AtMost(2.0, PLAIN)]),
    ("echo64", &[AtLeast(0.45, PLAIN)]),
    ("cpu_echo64", &[FastMost(6.0), AtMost(0.6, REFERENCE)]),
    ("conn1_p50", &[AtMost(3.0, PLAIN)]),
    ("conn32", &[AtLeast(0.5, PLAIN)]),
    ("rss_idle", &[Most(12.0)]),
    ("rss_1k", &[Most(18.0)]),
    ("rss_10k", &[Most(80.0)]),
    // The relay of this row has one hop, as Lark inside a node.
    ("same_bulk1", &[AtLeast(1.0, RELAY)]),
    ("same_echo1_p50", &[AtMost(1.4, PLAIN)]),
    ("uncaptured_conn1_p50", &[AtMost(1.02, PLAIN)]),
    ("uncaptured_bulk1", &[AtLeast(0.98, PLAIN)]),
    ("nonmesh_conn1_p50", &[AtMost(1.05, PLAIN)]),
    ("spin_echo1_p50", &[AtMost(1.0, PLAIN)]),
    ("fair_p99", &[Most(3.0)]),
    ("seen_bulk1", &[Least(0.98)]),
    ("seen_cpu_gib1", &[Most(1.02)]),
    ("seen_echo64", &[Least(0.98)]),
    ("seen_cpu_echo64", &[Most(1.02)]),
    ("seen_rss", &[Most(2.0)]),
];

/// One mark and whether it is met.
#[derive(Debug, PartialEq)]
pub(crate) struct Verdict {
    /// The mark, and what there is.
    pub(crate) text: String,
    /// Whether it is reached.
    pub(crate) met: bool,
}

/// What a row's marks say, but for marks whose figures were not measured.
pub(crate) fn judge(row: &str, figures: &Figures) -> Vec<Verdict> {
    let marks = MARKS.iter().find(|(name, _)| *name == row).map(|(_, marks)| *marks);
    marks.into_iter().flatten().filter_map(|mark| verdict(*mark, row, figures)).collect()
}

fn verdict(mark: Mark, row: &str, figures: &Figures) -> Option<Verdict> {
    let aead = figures.median("aead", LARK);
    let is_fast = aead.is_some_and(|aead| aead >= FAST);
    // What hops that do nothing else reach says whether a mark is within anybody's reach.
    let there_is = |of: &str| {
        let ratio = figures.ratio(row, LARK, of)?;
        let relay = figures.ratio(row, RELAY, of).filter(|_| of == PLAIN);
        let relay = relay.map(|relay| format!("; relay {relay:.2}")).unwrap_or_default();
        Some((ratio, format!("{ratio:.2}{relay}")))
    };
    let least = |part: f64, of: &str| {
        let (ratio, text) = there_is(of)?;
        Some(Verdict { text: format!("≥ {part} × {of} ({text})"), met: ratio >= part })
    };
    let most = |limit: f64| {
        let value = figures.median(row, LARK)?;
        let plain = figures.median(row, PLAIN).map(|plain| format!(" (plain {plain:.2})"));
        Some(Verdict { text: format!("≤ {limit}{}", plain.unwrap_or_default()), met: value <= limit })
    };
    match mark {
        AtLeast(part, of) => least(part, of),
        FastAtLeast(part, of) if is_fast => least(part, of),
        Least(limit) => {
            let value = figures.median(row, LARK)?;
            Some(Verdict { text: format!("≥ {limit}"), met: value >= limit })
        }
        Most(limit) => most(limit),
        FastMost(limit) if is_fast => most(limit),
        FastAtLeast(..) | FastMost(_) => None,
        AtMost(times, of) => {
            let (ratio, text) = there_is(of)?;
            Some(Verdict { text: format!("≤ {times} × {of} ({text})"), met: ratio <= times })
        }
        Floor(times) => {
            let floor = figures.median(row, RELAY)? + 2.0 * GIB / aead?;
            let ratio = figures.median(row, LARK)? / floor;
            Some(Verdict {
                text: format!("≤ {times} × floor of {floor:.3} ({ratio:.2})"),
                met: ratio <= times,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::named;
    use super::*;

    fn figures(row: &str, aead: f64, values: [(&str, f64); 4]) -> Figures {
        let mut figures = Figures::default();
        figures.add("aead", LARK, 0, aead);
        for (contestant, value) in values {
            figures.add(row, contestant, 0, value);
        }
        figures
    }

    fn met(row: &str, figures: &Figures) -> Vec<bool> {
        judge(row, figures).iter().map(|verdict| verdict.met).collect()
    }

    #[test]
    fn bulk_is_held_against_relay_and_reference_and_the_cipher_decides_how() {
        let values = [(PLAIN, 60.0), (RELAY, 30.0), (REFERENCE, 10.0), (LARK, 24.5)];
        assert_eq!(met("bulk1", &figures("bulk1", 19.0, values)), [true, false, true]);
        assert_eq!(met("bulk1", &figures("bulk1", 2.9, values)), [true]);
    }

    #[test]
    fn the_floor_is_the_relay_and_the_cipher_twice() {
        let aead = 2.0 * GIB;
        let values = [(PLAIN, 0.0), (RELAY, 1.0), (REFERENCE, 9.0), (LARK, 2.29)];
        assert_eq!(met("cpu_gib1", &figures("cpu_gib1", aead, values)), [true]);
        let values = [(PLAIN, 0.0), (RELAY, 1.0), (REFERENCE, 9.0), (LARK, 2.31)];
        let verdicts = judge("cpu_gib1", &figures("cpu_gib1", aead, values));
        assert_eq!(verdicts, [Verdict { text: "≤ 1.15 × floor of 2.000 (1.16)".into(), met: false }]);
    }

    #[test]
    fn beside_a_mark_is_what_those_reach_who_do_less() {
        let texts = |row, values| -> Vec<String> {
            judge(row, &figures(row, 19.0, values)).into_iter().map(|verdict| verdict.text).collect()
        };
        let values = [(PLAIN, 60.0), (RELAY, 90.0), (REFERENCE, 120.0), (LARK, 99.0)];
        assert_eq!(texts("echo1_p50", values), ["≤ 1.5 × plain (1.65; relay 1.50)"]);
        assert_eq!(texts("bulk1", values)[2], "≥ 1.7 × reference (0.82)");
        assert_eq!(
            texts("fair_p99", [(PLAIN, 3.1), (RELAY, 9.0), (REFERENCE, 9.0), (LARK, 4.0)]),
            ["≤ 3 (plain 3.10)"]
        );
        assert_eq!(texts("rss_1k", [("a", 1.0), ("b", 1.0), (REFERENCE, 9.0), (LARK, 4.0)]), ["≤ 18"]);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert_eq!(judge("bulk1", &Figures::default()), []);
        assert_eq!(judge("aead", &Figures::default()), []);
    }

    #[test]
    fn every_mark_is_of_a_row_and_of_the_right_direction() {
        for (name, marks) in MARKS {
            let more = named(name).unwrap().more;
            assert!(
                marks.iter().all(|mark| matches!(mark, AtLeast(..) | FastAtLeast(..) | Least(_)) == more),
                "{name}"
            );
        }
    }
}

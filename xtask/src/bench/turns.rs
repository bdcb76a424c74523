use std::collections::BTreeMap;

use anyhow::Result;

use super::figures::{LARK, PLAIN, REFERENCE, RELAY, median};
use super::measure::{Measured, Meter};
use super::rows::Job;
use super::stage::{Contestant, Stage};
use crate::install::say;

/// The turns of all contestants at a job. The time that each has in a round is cut into short ones, which all take one
/// after the other, so that what the host does for a second it does to all of them.
pub(crate) struct Turns<'a> {
    /// For a job that is not cut.
    pub(crate) whole: &'a Meter,
    pub(crate) short: &'a Meter,
    /// Short ones in a round.
    pub(crate) count: usize,
    pub(crate) peers: &'a [String],
}

/// What a job gave in a round.
#[derive(Debug, Default)]
pub(crate) struct Round<'a> {
    /// By row and whose it is, of each turn.
    given: BTreeMap<(&'static str, &'a str), Vec<f64>>,
    /// Who failed, and why.
    failed: BTreeMap<&'a str, String>,
}

impl<'a> Turns<'a> {
    /// A round of a job.
    ///
    /// # Errors
    /// When plain TCP fails: then the machine does not do. What others fail at is told with the figures.
    pub(crate) fn round(&self, stage: &mut Stage, job: Job, number: usize) -> Result<Round<'a>> {
        let mut round = Round::default();
        let (count, meter) = if job.has_turns() { (self.count, self.short) } else { (1, self.whole) };
        for turn in 0..count {
            for contestant in order(job, number * count + turn, self.peers.len()) {
                let of = name(contestant, self.peers);
                let times = match contestant {
                    // It is set up once a round: some take long to start.
                    Contestant::Peer(_) if turn > 0 => continue,
                    Contestant::Peer(_) => count,
                    _ => 1,
                };
                if round.failed.contains_key(of) {
                    continue;
                }
                match meter.turns(stage, contestant, job, times) {
                    Ok(measured) => measured.into_iter().for_each(|turn| round.add(of, turn)),
                    Err(error) if contestant == Contestant::Plain => return Err(error),
                    Err(error) => {
                        let text =
                            format!("{of} at {job:?} in round {}, turn {}: {error:#}", number + 1, turn + 1);
                        say(&text);
                        round.failed.insert(of, text);
                    }
                }
            }
        }
        Ok(round)
    }
}

impl<'a> Round<'a> {
    fn add(&mut self, of: &'a str, measured: Measured) {
        for (row, value) in measured {
            self.given.entry((row, of)).or_default().push(value);
        }
    }

    /// Row, whose figure, and the median of his turns. Whoever failed at one has none.
    pub(crate) fn figures(&self) -> impl Iterator<Item = (&'static str, &'a str, f64)> {
        let whole = self.given.iter().filter(|((_, of), _)| !self.failed.contains_key(of));
        whole.filter_map(|((row, of), values)| Some((*row, *of, median(values.iter().copied())?)))
    }

    /// Why those failed who did.
    pub(crate) fn failures(self) -> impl Iterator<Item = String> {
        self.failed.into_values()
    }
}

/// Who takes part in a job. Each is the first as often as the others, and when all have been the order is turned round,
/// so that nobody always follows the same.
fn order(job: Job, turn: usize, peers: usize) -> Vec<Contestant> {
    use Contestant::{Lark, Peer, Plain, Reference, Relay};
    let mut order = match job {
        Job::Aead => Vec::new(),
        _ if job.has_twins() => Vec::new(),
        Job::SameBulk | Job::SameEcho | Job::Spin => vec![Plain, Relay, Lark],
        // The relay has one buffer for all and two descriptors for each: nothing to compare with.
        Job::Memory | Job::Slow => vec![Reference, Lark],
        _ => vec![Plain, Relay, Reference, Lark],
    };
    if order.contains(&Reference) {
        order.extend((0..peers).map(Peer));
    }
    if !order.is_empty() {
        let (times, first) = (turn / order.len(), turn % order.len());
        order.rotate_left(first);
        if !times.is_multiple_of(2) {
            order.reverse();
        }
    }
    order
}

fn name(contestant: Contestant, peers: &[String]) -> &str {
    match contestant {
        Contestant::Plain => PLAIN,
        Contestant::Relay => RELAY,
        Contestant::Reference => REFERENCE,
        Contestant::Lark => LARK,
        Contestant::Peer(number) => peers.get(number).map_or("", String::as_str),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_each_turn_is_first_as_often_and_follows_different_ones() {
        for (job, peers, count) in
            [(Job::Memory, 0, 2), (Job::Spin, 0, 3), (Job::Bulk1, 0, 4), (Job::Bulk1, 1, 5)]
        {
            let orders: Vec<Vec<Contestant>> = (0..2 * count).map(|turn| order(job, turn, peers)).collect();
            for contestant in &orders[0] {
                assert!(orders.iter().all(|order| order.len() == count && order.contains(contestant)));
                assert_eq!(orders.iter().filter(|order| order[0] == *contestant).count(), 2, "{job:?}");
                let before = |order: &Vec<Contestant>| {
                    let at = order.iter().position(|other| other == contestant).unwrap();
                    at.checked_sub(1).map(|at| order[at])
                };
                let followed: Vec<_> = orders.iter().filter_map(before).collect();
                assert!(count == 2 || followed.iter().any(|other| *other != followed[0]), "{job:?}");
            }
        }
        assert!(!order(Job::SameBulk, 0, 1).contains(&Contestant::Peer(0)));
    }

    #[test]
    fn a_round_has_medians_of_turns_and_nothing_of_who_failed_at_one() {
        let mut round = Round::default();
        for (of, rate, cpu) in [("lark", 3.0, 0.5), ("lark", 1.0, 0.7), ("a", 9.0, 9.0), ("lark", 2.0, 0.6)] {
            round.add(of, vec![("bulk1", rate), ("cpu_gib1", cpu)]);
        }
        round.failed.insert("a", "a at Bulk1".into());
        assert_eq!(round.figures().collect::<Vec<_>>(), [("bulk1", "lark", 2.0), ("cpu_gib1", "lark", 0.6)]);
        assert_eq!(round.failures().collect::<Vec<_>>(), ["a at Bulk1"]);
    }
}

//! Pure: what the relay would reach if it sealed and opened too: an estimate of what two hops allow a tunnel, as noisy as
//! the rates that it is made of.

use super::figures::{Figures, LARK, REFERENCE, RELAY};
use super::marks::GIB;

/// Whose figure it is, in the row of the rate. No peer can have this name.
const BOUND: &str = "the bound";

/// A rate of bytes, and what the whole machine did in the turns of the same round.
#[derive(Debug)]
pub(crate) struct Watched {
    rate: &'static str,
    /// CPU seconds for a GiB of everybody, load client and server included.
    pub(crate) busy: &'static str,
    /// Share of all cores' time that nobody used. In no table: it says what the bound is worth.
    pub(crate) idle: &'static str,
}

const WATCHED: [Watched; 3] = [
    Watched { rate: "bulk1", busy: "busy_gib1", idle: "idle_bulk1" },
    Watched { rate: "bulk8", busy: "busy_gib8", idle: "idle_bulk8" },
    Watched { rate: "bulk1_down", busy: "busy_gib1_down", idle: "idle_bulk1_down" },
];

/// What is watched while the rate of that row is measured.
pub(crate) fn watched(rate: &str) -> Option<&'static Watched> {
    WATCHED.iter().find(|watched| watched.rate == rate)
}

/// Medians of the rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bound {
    /// In the row's unit.
    pub(crate) value: f64,
    /// In relation to the relay as it is.
    pub(crate) relay: f64,
    pub(crate) reference: Option<f64>,
    /// Of all cores' time in the relay's turns. The more it is, the less were they what held it up.
    pub(crate) idle: f64,
}

impl Bound {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let Self { value, relay, reference, idle } = self;
        let reference = reference.map(|ratio| format!("{ratio:.2} × reference, ")).unwrap_or_default();
        let idle = idle * 100.0;
        format!("bound {value:.1} ({reference}{relay:.2} × relay; {idle:.0} % idle)")
    }
}

/// Adds the bounds to what a round has given.
pub(crate) fn add(figures: &mut Figures, round: usize) {
    for Watched { rate, busy, .. } in &WATCHED {
        let relay = |row| figures.of_round(row, RELAY, round);
        let aead = figures.of_round("aead", LARK, round);
        if let (Some(value), Some(busy), Some(aead)) = (relay(rate), relay(busy), aead) {
            figures.add(rate, BOUND, round, bound(value, busy, aead));
        }
    }
}

/// The bound of a row, if it has one.
pub(crate) fn of(row: &str, figures: &Figures) -> Option<Bound> {
    Some(Bound {
        value: figures.median(row, BOUND)?,
        relay: figures.ratio(row, BOUND, RELAY)?,
        reference: figures.ratio(row, BOUND, REFERENCE),
        idle: figures.median(watched(row)?.idle, RELAY)?,
    })
}

/// By the relay's rate, the machine's CPU for a GiB of it in seconds, and the GB that a core seals in a second. Cores
/// that are as busy as they were give a rate in inverse proportion to the CPU that a GiB takes, and each byte is sealed
/// once and opened once.
fn bound(rate: f64, busy: f64, aead: f64) -> f64 {
    rate * busy / (busy + 2.0 * GIB / aead)
}

#[cfg(test)]
mod tests {
    use super::super::rows::named;
    use super::*;

    #[test]
    fn cipher_that_takes_as_much_as_all_the_rest_halves_the_rate() {
        assert_eq!(bound(30.0, 1.0, 2.0 * GIB), 15.0);
        assert_eq!(bound(30.0, 0.5, 2.0 * GIB), 10.0);
        // Of the size of what a fast cipher has.
        assert!((bound(18.0, 0.95, 11.6) - 15.06).abs() < 0.01);
    }

    #[test]
    fn each_round_is_bound_by_its_own_relay_and_cipher() {
        let mut figures = Figures::default();
        // The machine is half as fast in the second round; the last has no relay.
        for (round, relay, busy, aead) in
            [(0, Some(30.0), 1.0, 2.0 * GIB), (1, Some(15.0), 2.0, GIB), (2, None, 1.0, GIB)]
        {
            figures.add("aead", LARK, round, aead);
            figures.add("busy_gib8", RELAY, round, busy);
            figures.add("idle_bulk8", RELAY, round, 0.07);
            if let Some(relay) = relay {
                figures.add("bulk8", RELAY, round, relay);
                figures.add("bulk8", REFERENCE, round, relay / 3.0);
            }
            add(&mut figures, round);
        }
        let bound = of("bulk8", &figures).unwrap();
        assert_eq!(bound, Bound { value: 11.25, relay: 0.5, reference: Some(1.5), idle: 0.07 });
        assert_eq!(bound.text(), "bound 11.2 (1.50 × reference, 0.50 × relay; 7 % idle)");
        assert_eq!(of("bulk1", &figures), None);
        assert_eq!(of("aead", &figures), None);
    }

    #[test]
    fn what_is_watched_is_of_a_rate_and_the_cpu_has_a_row_of_the_same_job() {
        for Watched { rate, busy, idle } in &WATCHED {
            let (rate, busy) = (named(rate).unwrap(), named(busy).unwrap());
            assert_eq!((rate.unit, busy.unit, rate.job), ("Gbit/s", "s/GiB", busy.job));
            assert!(named(idle).is_none(), "{idle}");
        }
    }
}

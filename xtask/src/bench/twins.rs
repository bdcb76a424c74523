use std::time::Duration;

use anyhow::Result;

use super::measure::{Meter, cpu_seconds, number};
use super::stage::{Route, Stage};

/// How long a turn is: the machine is another one seconds later, and a load needs a moment to be a load.
pub(crate) const TURN: Duration = Duration::from_millis(300);

/// What a comparison gives: row, whose figure, and the figure.
pub(crate) type Compared = Vec<(&'static str, &'static str, f64)>;

/// What is run in a turn.
pub(crate) struct Load {
    pub(crate) verb: &'static str,
    pub(crate) port: u16,
    pub(crate) arguments: &'static [&'static str],
    /// What of the client's answer was done.
    pub(crate) unit: &'static str,
}

impl Load {
    /// What was done in a second of a turn, and the agents' CPU for each.
    pub(crate) fn turn(&self, meter: &Meter, route: &Route) -> Result<(f64, f64)> {
        let before = cpu_seconds(route)?;
        let said = meter.timed(self.verb, route, self.port, TURN, self.arguments)?;
        let cpu = cpu_seconds(route)? - before;
        let done = number(&said, self.unit)?;
        Ok((done / number(&said, "seconds")?, cpu / done))
    }
}

/// Two meshes that run at once, each on nodes of its own, and differ in one thing.
pub(crate) struct Twins<'a> {
    pub(crate) without: (&'a Meter, &'a mut Stage),
    pub(crate) with: (&'a Meter, &'a mut Stage),
}

impl<'a> Twins<'a> {
    /// Which is which changes with the round.
    pub(crate) fn new(
        one: (&'a Meter, &'a mut Stage),
        other: (&'a Meter, &'a mut Stage),
        round: usize,
    ) -> Self {
        let (without, with) = if round.is_multiple_of(2) { (one, other) } else { (other, one) };
        Self { without, with }
    }
}

/// Short turns: one and then the other, then the other way round.
pub(crate) fn turns<T>(
    pairs: usize,
    mut without: impl FnMut() -> Result<T>,
    mut with: impl FnMut() -> Result<T>,
) -> Result<Vec<(T, T)>> {
    (0..pairs)
        .map(|pair| {
            if pair.is_multiple_of(2) {
                let without = without()?;
                Ok((without, with()?))
            } else {
                let with = with()?;
                Ok((without()?, with))
            }
        })
        .collect()
}

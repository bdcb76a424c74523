use std::time::Duration;

use anyhow::Result;

use super::figures::median;
use super::measure::{Measured, Meter, cpu_seconds, largest, number};
use super::stage::{Contestant, Route, Stage, Way};

/// Open connections by which the memory of one is told.
const HELD: u32 = 4_000;
/// Bytes of a KiB in those of a MiB.
const KIB: f64 = 1_024.0;
/// How long a turn is: the machine is another one seconds later, and a load needs a moment to be a load.
const TURN: Duration = Duration::from_millis(300);

/// A load, the rows of its rate and of its CPU, and how it is run.
struct Load {
    rate: &'static str,
    cost: &'static str,
    verb: &'static str,
    port: u16,
    /// What of the client's answer was done.
    unit: &'static str,
    arguments: &'static [&'static str],
}

const LOADS: [Load; 3] = [
    Load {
        rate: "seen_bulk1",
        cost: "seen_cpu_gib1",
        verb: "bulk",
        port: 1,
        unit: "bytes",
        arguments: &["--http"],
    },
    Load {
        rate: "seen_echo64",
        cost: "seen_cpu_echo64",
        verb: "echo",
        port: 0,
        unit: "all",
        arguments: &["--connections", "64"],
    },
    Load {
        rate: "seen_http64",
        cost: "seen_cpu_http64",
        verb: "echo",
        port: 3,
        unit: "all",
        arguments: &["--connections", "64", "--http"],
    },
];

/// One of two meshes that differ in nothing but whether their agents look.
struct End<'a> {
    meter: &'a Meter,
    route: Route,
}

/// Lark that recognises requests and has a tap running, in relation to Lark that does neither.
///
/// Both run all the time, each on nodes of its own, and take short turns: one and then the other, then the other way
/// round. Each figure is the median of the pairs' ratios. Which mesh looks changes with the round.
pub(crate) fn compare(
    first: (&Meter, &mut Stage),
    second: (&Meter, &mut Stage),
    round: usize,
    pairs: usize,
) -> Result<Measured> {
    let (blind, seeing) = if round.is_multiple_of(2) { (first, second) } else { (second, first) };
    let ready = |(meter, stage): (&Meter, &mut Stage), flags: &[&str]| {
        stage.renew(Contestant::Lark)?;
        stage.agents_with(flags)?;
        let route = stage.enter(Contestant::Lark, Way::Across)?;
        meter.warm(stage, Contestant::Lark, Way::Across, &route)?;
        Ok::<_, anyhow::Error>(route)
    };
    let blind = End { route: ready((blind.0, &mut *blind.1), &["--recognise=off"])?, meter: blind.0 };
    let route = ready((seeing.0, &mut *seeing.1), &[])?;
    let _tap = seeing.1.tap()?;
    let seeing = End { route, meter: seeing.0 };
    let mut measured = vec![("seen_rss", (seeing.memory()? - blind.memory()?) * KIB)];
    for load in &LOADS {
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for pair in 0..pairs {
            let (without, with) = if pair.is_multiple_of(2) {
                let without = blind.turn(load)?;
                (without, seeing.turn(load)?)
            } else {
                let with = seeing.turn(load)?;
                (blind.turn(load)?, with)
            };
            rates.push(with.0 / without.0);
            costs.push(with.1 / without.1);
        }
        let of = |row, ratios: Vec<f64>| median(ratios.into_iter()).map(|ratio| (row, ratio));
        measured.extend([of(load.rate, rates), of(load.cost, costs)].into_iter().flatten());
    }
    Ok(measured)
}

impl End<'_> {
    /// MiB of a connection.
    fn memory(&self) -> Result<f64> {
        let before = largest(&self.route)?;
        let mut holder = self.meter.hold(&self.route, HELD as usize, true)?;
        std::thread::sleep(Duration::from_millis(300));
        let with = largest(&self.route)?;
        holder.kill();
        std::thread::sleep(Duration::from_millis(700));
        Ok((with - before) / f64::from(HELD))
    }

    /// What was done in a second, and the agents' CPU for each.
    fn turn(&self, load: &Load) -> Result<(f64, f64)> {
        let before = cpu_seconds(&self.route)?;
        let said = self.meter.timed(load.verb, &self.route, load.port, TURN, load.arguments)?;
        let cpu = cpu_seconds(&self.route)? - before;
        let done = number(&said, load.unit)?;
        Ok((done / number(&said, "seconds")?, cpu / done))
    }
}

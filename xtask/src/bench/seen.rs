use std::time::Duration;

use anyhow::Result;

use super::figures::{LARK, median};
use super::measure::{Meter, cpu_seconds, largest, number};
use super::stage::{Contestant, Route, Stage, Way};
use super::twins::{self, Compared, TURN, Twins};

/// Open connections by which the memory of one is told.
const HELD: u32 = 4_000;
/// Bytes of a KiB in those of a MiB.
const KIB: f64 = 1_024.0;

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
pub(crate) fn compare(twins: Twins<'_>, pairs: usize) -> Result<Compared> {
    let Twins { without: blind, with: seeing } = twins;
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
    let mut measured = vec![("seen_rss", LARK, (seeing.memory()? - blind.memory()?) * KIB)];
    for load in &LOADS {
        let turns = twins::turns(pairs, || blind.turn(load), || seeing.turn(load))?;
        let rate = median(turns.iter().map(|(without, with)| with.0 / without.0));
        let cost = median(turns.iter().map(|(without, with)| with.1 / without.1));
        let of = |row, ratio: Option<f64>| ratio.map(|ratio| (row, LARK, ratio));
        measured.extend([of(load.rate, rate), of(load.cost, cost)].into_iter().flatten());
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

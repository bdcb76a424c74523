use std::time::Duration;

use anyhow::Result;

use super::figures::{LARK, median};
use super::measure::{Meter, largest};
use super::stage::{Contestant, Route, Stage, Way};
use super::twins::{self, Compared, Load, Twins};

/// Open connections by which the memory of one is told.
const HELD: u32 = 4_000;
/// Bytes of a KiB in those of a MiB.
const KIB: f64 = 1_024.0;

/// Loads, and the rows of their rate and of their CPU.
const LOADS: [(&str, &str, Load); 3] = [
    ("seen_bulk1", "seen_cpu_gib1", Load { verb: "bulk", port: 1, arguments: &["--http"], unit: "bytes" }),
    (
        "seen_echo64",
        "seen_cpu_echo64",
        Load { verb: "echo", port: 0, arguments: &["--connections", "64"], unit: "all" },
    ),
    (
        "seen_http64",
        "seen_cpu_http64",
        Load { verb: "echo", port: 3, arguments: &["--connections", "64", "--http"], unit: "all" },
    ),
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
    for (rate_row, cost_row, load) in &LOADS {
        let turn = |end: &End<'_>| load.turn(end.meter, &end.route);
        let turns = twins::turns(pairs, || turn(&blind), || turn(&seeing))?;
        let rate = median(turns.iter().map(|(without, with)| with.0 / without.0));
        let cost = median(turns.iter().map(|(without, with)| with.1 / without.1));
        let of = |row, ratio: Option<f64>| ratio.map(|ratio| (row, LARK, ratio));
        measured.extend([of(*rate_row, rate), of(*cost_row, cost)].into_iter().flatten());
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
}

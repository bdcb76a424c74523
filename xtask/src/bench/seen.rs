use std::time::Duration;

use anyhow::Result;

use super::measure::{Measured, Meter, cpu_seconds, largest, number};
use super::stage::{Contestant, Route, Stage, Way};

/// Open connections by which the memory of one is told.
const HELD: u32 = 4_000;
/// Bytes of a KiB in those of a MiB.
const KIB: f64 = 1_024.0;

/// What agents cost, summed over turns.
#[derive(Debug, Default)]
struct Cost {
    turns: f64,
    /// MiB of a connection.
    memory: f64,
    bulk: Load,
    echo: Load,
    requests: Load,
}

/// What was done in that time with that CPU of the agents.
#[derive(Debug, Default)]
struct Load {
    done: f64,
    seconds: f64,
    cpu: f64,
}

impl Load {
    fn rate(&self) -> f64 {
        self.done / self.seconds
    }

    fn cost(&self) -> f64 {
        self.cpu / self.done
    }
}

impl Meter {
    /// Lark that recognises requests and has a tap running, in relation to Lark that does neither. The two take
    /// turns, first one and then the other way round, so that a machine that grows slower slows both.
    pub(crate) fn seen(&self, stage: &mut Stage) -> Result<Measured> {
        let (mut blind, mut seeing) = (Cost::default(), Cost::default());
        for sees in [false, true, true, false] {
            let flags: &[&str] = if sees { &[] } else { &["--recognise=off"] };
            stage.renew(Contestant::Lark)?;
            stage.agents_with(flags)?;
            let route = stage.enter(Contestant::Lark, Way::Across)?;
            self.warm(stage, Contestant::Lark, Way::Across, &route)?;
            let tap = sees.then(|| stage.tap()).transpose()?;
            self.look(&route, if sees { &mut seeing } else { &mut blind })?;
            drop(tap);
        }
        Ok(vec![
            ("seen_bulk1", seeing.bulk.rate() / blind.bulk.rate()),
            ("seen_cpu_gib1", seeing.bulk.cost() / blind.bulk.cost()),
            ("seen_echo64", seeing.echo.rate() / blind.echo.rate()),
            ("seen_cpu_echo64", seeing.echo.cost() / blind.echo.cost()),
            ("seen_http64", seeing.requests.rate() / blind.requests.rate()),
            ("seen_cpu_http64", seeing.requests.cost() / blind.requests.cost()),
            ("seen_rss", (seeing.memory / seeing.turns - blind.memory / blind.turns) * KIB),
        ])
    }

    fn look(&self, route: &Route, cost: &mut Cost) -> Result<()> {
        let before = largest(route)?;
        let mut holder = self.hold(route, HELD as usize, true)?;
        std::thread::sleep(Duration::from_millis(300));
        cost.memory += (largest(route)? - before) / f64::from(HELD);
        cost.turns += 1.0;
        holder.kill();
        std::thread::sleep(Duration::from_millis(700));
        self.load(route, &mut cost.bulk, "bulk", 1, "bytes", &["--http"])?;
        self.load(route, &mut cost.echo, "echo", 0, "all", &["--connections", "64"])?;
        self.load(route, &mut cost.requests, "echo", 3, "all", &["--connections", "64", "--http"])
    }

    fn load(
        &self,
        route: &Route,
        sum: &mut Load,
        verb: &str,
        port: u16,
        unit: &str,
        arguments: &[&str],
    ) -> Result<()> {
        let before = cpu_seconds(route)?;
        let said = self.timed(verb, route, port, arguments)?;
        sum.cpu += cpu_seconds(route)? - before;
        sum.done += number(&said, unit)?;
        sum.seconds += number(&said, "seconds")?;
        Ok(())
    }
}

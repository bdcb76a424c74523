use anyhow::{Context, Result, bail};

use super::figures::{LARK, PLAIN, median};
use super::measure::{Meter, number};
use super::rows::Job;
use super::stage::{Contestant, Route, Stage, Way};
use super::twins::{self, Compared, TURN, Twins};

/// Connections of a node with Lark that no agent carries, in relation to those of a node without Lark.
///
/// A few parts in a hundred are asked for, less than turns seconds apart differ by themselves.
pub(crate) fn compare(twins: Twins<'_>, job: Job, pairs: usize) -> Result<Compared> {
    let Twins { without: plain, with: lark } = twins;
    let way = if job == Job::OutsideConnect { Way::Outside } else { Way::Beside };
    plain.1.renew(Contestant::Lark)?;
    let ready = |(meter, stage): (&Meter, &mut Stage), contestant| {
        stage.agents_with(&[])?;
        let route = stage.enter(contestant, way)?;
        meter.warm(stage, contestant, way, &route)?;
        Ok::<_, anyhow::Error>(route)
    };
    let plain = (plain.0, ready((plain.0, plain.1), Contestant::Plain)?);
    let lark = (lark.0, ready((lark.0, lark.1), Contestant::Lark)?);
    let (row, turns) = match job {
        Job::BesideConnect => {
            ("uncaptured_conn1_p50", twins::turns(pairs, || connect(&plain), || connect(&lark))?)
        }
        Job::OutsideConnect => {
            ("nonmesh_conn1_p50", twins::turns(pairs, || connect(&plain), || connect(&lark))?)
        }
        Job::BesideBulk => ("uncaptured_bulk1", twins::turns(pairs, || bulk(&plain), || bulk(&lark))?),
        _ => bail!("{job:?} is carried by an agent"),
    };
    let figure = median(turns.iter().map(|(plain, _)| *plain)).context("no turns")?;
    // As far from plain's as the pairs say, whatever the machine did meanwhile.
    let ratio = median(turns.iter().map(|(plain, lark)| lark / plain)).context("no turns")?;
    Ok(vec![(row, PLAIN, figure), (row, LARK, figure * ratio)])
}

type End<'a> = (&'a Meter, Route);

fn connect((meter, route): &End<'_>) -> Result<f64> {
    number(&meter.timed("connect", route, 0, TURN, &["--at-once", "1"])?, "p50")
}

fn bulk((meter, route): &End<'_>) -> Result<f64> {
    let said = meter.timed("bulk", route, 1, TURN, &["--streams", "1"])?;
    Ok(number(&said, "bytes")? * 8e-9 / number(&said, "seconds")?)
}

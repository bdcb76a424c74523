use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Programs;
use super::figures::median;
use super::measure::Meter;
use super::stage::{Contestant, Route, Stage, Way};
use super::twins::{self, Load};
use crate::install::say;

/// How often both meshes are made anew.
const ROUNDS: usize = 4;

/// Loads by their names.
const LOADS: [(&str, Load); 6] = [
    ("bulk1", Load { verb: "bulk", port: 1, arguments: &["--streams", "1"], unit: "bytes" }),
    ("bulk8", Load { verb: "bulk", port: 1, arguments: &["--streams", "8"], unit: "bytes" }),
    ("echo1", Load { verb: "echo", port: 0, arguments: &["--connections", "1"], unit: "all" }),
    ("echo64", Load { verb: "echo", port: 0, arguments: &["--connections", "64"], unit: "all" }),
    ("conn1", Load { verb: "connect", port: 0, arguments: &["--at-once", "1"], unit: "connections" }),
    ("conn32", Load { verb: "connect", port: 0, arguments: &["--at-once", "32"], unit: "connections" }),
];

/// One of two meshes.
struct End {
    meter: Meter,
    route: Route,
    _stage: Stage,
}

impl End {
    fn ready((meter, mut stage): (Meter, Stage)) -> Result<Self> {
        let route = stage.enter(Contestant::Lark, Way::Across)?;
        meter.warm(&stage, Contestant::Lark, Way::Across, &route)?;
        Ok(Self { meter, route, _stage: stage })
    }
}

/// The binary that is measured in relation to another one: rate and CPU of each load, the median of so many pairs of
/// turns of two meshes that run at once, and in which half of the pairs lie.
pub(crate) fn compare(
    programs: &Programs,
    before: &Path,
    names: &[String],
    pairs: usize,
    set_up: impl Fn(&Programs) -> Result<(Meter, Stage)>,
) -> Result<Value> {
    let lark = before.canonicalize().with_context(|| format!("there is no {}", before.display()))?;
    for name in names {
        ensure!(
            LOADS.iter().any(|(known, _)| known == name),
            "there is no load {name}; there are {}",
            LOADS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
        );
    }
    let chosen =
        || LOADS.iter().filter(|(load, _)| names.is_empty() || names.iter().any(|name| name == load));
    let mut turns: BTreeMap<&str, Vec<Pair>> = BTreeMap::new();
    for round in 0..ROUNDS {
        // Of two meshes of one binary one is faster by up to a tenth for as long as both live: each binary is the first
        // to be set up in half of the rounds.
        let before = || End::ready(set_up(&Programs { lark: lark.clone(), ..programs.clone() })?);
        let now = || End::ready(set_up(programs)?);
        let (before, now) = if round.is_multiple_of(2) {
            let before = before()?;
            (before, now()?)
        } else {
            let now = now()?;
            (before()?, now)
        };
        for (name, load) in chosen() {
            say(&format!("round {} of {ROUNDS}: {name}", round + 1));
            let turn = |end: &End| load.turn(&end.meter, &end.route);
            let measured = twins::turns(pairs / ROUNDS, || turn(&before), || turn(&now))?;
            turns.entry(name).or_default().extend(measured);
        }
    }
    let all = chosen().filter_map(|(name, _)| {
        let of = |figure| ratio(turns.get(name)?, figure);
        Some(((*name).to_owned(), json!({ "rate": of(|turn| turn.0)?, "cpu": of(|turn| turn.1)? })))
    });
    Ok(Value::Object(all.collect()))
}

/// Rate and CPU of a turn, before and now.
type Pair = ((f64, f64), (f64, f64));

/// What now is in relation to before.
fn ratio(turns: &[Pair], figure: fn(&(f64, f64)) -> f64) -> Option<Value> {
    let mut ratios: Vec<f64> = turns.iter().map(|(before, now)| figure(now) / figure(before)).collect();
    ratios.sort_by(f64::total_cmp);
    let quarter = |part: usize| ratios.get(part * (ratios.len() - 1) / 4).copied();
    Some(json!({ "median": median(ratios.iter().copied())?, "half": [quarter(1)?, quarter(3)?] }))
}

/// The same for people.
pub(crate) fn table(compared: &Value) -> String {
    let mut lines =
        vec![format!("{:<8}{:>7}  half of the pairs{:>11}  half of the pairs", "", "rate", "CPU")];
    for (name, load) in compared.as_object().into_iter().flatten() {
        let cell = |what: &str| {
            let figure = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
            let of = &load[what];
            let half = format!("{:.3} to {:.3}", figure(&of["half"][0]), figure(&of["half"][1]));
            format!("{:>7.3}  {half:<17}", figure(&of["median"]))
        };
        lines.push(format!("{name:<8}{}    {}", cell("rate"), cell("cpu")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_load_with_both_figures() {
        let figure = |median: f64| json!({ "median": median, "half": [median - 0.5, median + 0.5] });
        let told = table(&json!({ "conn1": { "rate": figure(1.5), "cpu": figure(0.75) } }));
        let line = told.lines().nth(1).unwrap();
        assert!(line.starts_with("conn1"), "{told}");
        for part in ["1.500", "1.000 to 2.000", "0.750", "0.250 to 1.250"] {
            assert!(line.contains(part), "{told}");
        }
    }
}

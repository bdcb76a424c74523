use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::measure::Meter;
use super::stage::{Contestant, Route, Stage, Way};
use crate::install::say;

/// How the files begin that callgrind writes.
pub(crate) const PROFILES: &str = "profile";

/// How long each load runs: under callgrind some thousand connections or echoes.
const TURN: Duration = Duration::from_secs(3);
/// How long agents have nothing to do: what they do once a second is warm too.
const QUIET: Duration = Duration::from_secs(5);

/// A load: its name, the port it goes to and its flags.
type Load = (&'static str, u16, &'static [&'static str]);

const CONNECT: Load = ("connect", 0, &[]);
const ECHO: Load = ("echo", 0, &["--connections", "64"]);
const BULK: Load = ("bulk", 1, &[]);

/// What an agent is looked at with, by where the load goes.
const LOADS: [(Way, &[Load]); 3] = [
    (
        Way::Across,
        &[
            CONNECT,
            ("connect", 0, &["--at-once", "32"]),
            ("echo", 0, &[]),
            ECHO,
            ("echo", 3, &["--connections", "64", "--http"]),
            BULK,
            ("bulk", 1, &["--streams", "8"]),
            ("bulk", 2, &["--down"]),
        ],
    ),
    (Way::Same, &[CONNECT, ECHO, BULK]),
    (Way::Outside, &[CONNECT]),
];

/// Runs every load while both agents are looked at, and tells where callgrind has written what they executed. Starting
/// up, the first connections and the end are left out.
pub(super) fn profiled(meter: &Meter, stage: &mut Stage, directory: &Path) -> Result<Vec<PathBuf>> {
    let mut dumps = 0;
    for (way, loads) in LOADS {
        let route = stage.enter(Contestant::Lark, way)?;
        meter.warm(stage, Contestant::Lark, way, &route)?;
        tell(&route, "--instr=on")?;
        for (verb, port, arguments) in loads {
            say(&format!("looking at {verb} {} ({way:?})", arguments.join(" ")));
            meter.timed(verb, &route, *port, TURN, arguments)?;
        }
        thread::sleep(QUIET);
        tell(&route, "--instr=off")?;
        tell(&route, "--dump")?;
        dumps += route.processes.len();
    }
    let mut written = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is_profile = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PROFILES));
        if is_profile && fs::metadata(&path)?.len() > 0 {
            written.push(path);
        }
    }
    ensure!(
        written.len() == dumps,
        "callgrind has written {} files into {}, not {dumps}: what it says is there too",
        written.len(),
        directory.display()
    );
    written.sort();
    Ok(written)
}

/// Tells callgrind in each agent (callgrind_control(1), which ends well whatever happens and says on standard output what
/// did).
fn tell(route: &Route, what: &str) -> Result<()> {
    for process in &route.processes {
        let output = Command::new("callgrind_control").args([what, &process.to_string()]).output();
        let output = output.context("callgrind_control cannot be run")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(said.contains("OK"), "callgrind_control {what} {process}: {}", said.trim());
    }
    Ok(())
}

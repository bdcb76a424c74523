//! Owns a bed with a running process for ten minutes and writes the bed's name to the file it is given:
//! for the test that kills it.

use std::time::Duration;

use anyhow::{Context, Result};
use lark_testbed::Testbed;

fn main() -> Result<()> {
    let told = std::env::args().nth(1).context("usage: owner FILE")?;
    let mut bed = Testbed::new()?;
    let node = bed.node("one")?;
    let pod = bed.pod(&node, "pod")?;
    let mut sleep = pod.place.command("sleep");
    sleep.arg("600");
    let _sleeper = pod.place.start(sleep, &bed.directory().join("log"))?;
    std::fs::write(told, bed.name())?;
    std::thread::sleep(Duration::from_secs(600));
    Ok(())
}

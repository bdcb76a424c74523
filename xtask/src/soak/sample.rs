use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use lark_testbed::Agent;

use super::judge::Held;
use crate::process;

/// The name under which pinned links are counted beside the maps.
pub(crate) const LINKS: &str = "LINKS";

/// What a process holds.
pub(crate) fn held(pid: u32) -> Result<Held> {
    let directory = format!("/proc/{pid}/fd");
    let descriptors = fs::read_dir(&directory).with_context(|| format!("read {directory}"))?.count();
    Ok(Held { memory: process::resident(pid)?, descriptors: u64::try_from(descriptors)? })
}

/// Entries of an agent's maps, and its pinned links.
pub(crate) fn entries(agent: &Agent) -> Result<BTreeMap<String, u64>> {
    let bpf = agent.json("bpf")?;
    let maps = bpf["maps"].as_array().context("no maps")?;
    let named = maps.iter().filter_map(|m| Some((m["name"].as_str()?.to_owned(), m["entries"].as_u64()?)));
    let links = bpf["links"].as_array().context("no links")?.len();
    Ok(named.chain([(LINKS.to_owned(), u64::try_from(links)?)]).collect())
}

/// What `lark check` finds wrong.
pub(crate) fn complaints(agent: &Agent) -> Result<Vec<String>> {
    let check = agent.json("check")?;
    let failed = check.as_array().context("no checks")?.iter().filter(|c| c["verdict"] == "fail");
    Ok(failed.map(|c| format!("{}: {}: {}", agent.node.name, c["subject"], c["found"])).collect())
}

/// Files below a directory.
pub(crate) fn files(directory: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

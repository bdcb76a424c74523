//! What an agent and the kernel hold for the pods of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData};
use lark_abi::PodEntry;
use lark_testbed::{Agent, Testbed};
use serde_json::Value;

/// No more after pods that came and went than before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Files below the agent's place on bpffs.
    pub(crate) pins: usize,
    /// Kernel ids of the links that are pinned.
    pub(crate) links: BTreeSet<u64>,
    /// The agent's descriptors by kind.
    pub(crate) descriptors: BTreeMap<String, usize>,
    /// What the agent has the kernel watch, but for directories of tests that run beside this one: agents look above
    /// these too.
    pub(crate) watches: usize,
    pub(crate) threads: usize,
    /// Entries of pods, and of maps that could get full.
    pub(crate) entries: BTreeMap<String, u64>,
    /// Connections that the agent carries.
    open: u64,
}

impl Held {
    /// Whether there is anything that was not there before. Of descriptors and threads some may be gone: connections to
    /// the API that were idle, for example.
    pub(crate) fn is_more_than(&self, before: &Self) -> bool {
        let is_more =
            |(kind, count): (&String, &usize)| before.descriptors.get(kind).is_none_or(|b| count > b);
        self.pins != before.pins
            || self.links != before.links
            || self.descriptors.iter().any(is_more)
            || self.watches > before.watches
            || self.threads > before.threads
            || self.entries != before.entries
            || self.open > before.open
    }
}

pub(crate) fn held(bed: &Testbed, agent: &Agent) -> Held {
    let pins = bed.pins(&agent.node);
    let bpf = agent.json("bpf").unwrap();
    let all = |field: &str| bpf[field].as_array().unwrap();
    let mut entries: BTreeMap<String, u64> = all("maps")
        .iter()
        .map(|m| (m["name"].as_str().unwrap().to_owned(), m["entries"].as_u64().unwrap()))
        .collect();
    entries.insert("POD".to_owned(), pods(&pins));
    let process = format!("/proc/{}", agent.process.pid());
    let elsewhere = elsewhere(bed);
    let (mut descriptors, mut watches) = (BTreeMap::new(), 0);
    for entry in std::fs::read_dir(format!("{process}/fd")).unwrap().map(Result::unwrap) {
        // One that was closed meanwhile is none.
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        let kind = match target.as_str() {
            t if t.starts_with("/run/netns/") => "net",
            t if t.starts_with("/sys/fs/cgroup") => "cgroup",
            t if t.starts_with("anon_inode:") => t,
            t => t.split(':').next().unwrap_or_default(),
        };
        *descriptors.entry(kind.to_owned()).or_insert(0) += 1;
        let info = format!("{process}/fdinfo/{}", entry.file_name().to_string_lossy());
        let info = std::fs::read_to_string(info).unwrap_or_default();
        let inodes = info.lines().filter_map(|line| line.strip_prefix("inotify ")?.split("ino:").nth(1));
        let inodes = inodes.filter_map(|rest| u64::from_str_radix(rest.split(' ').next()?, 16).ok());
        watches += inodes.filter(|inode| !elsewhere.contains(inode)).count();
    }
    Held {
        pins: files(&pins),
        links: all("links").iter().map(|l| l["link_id"].as_u64().unwrap()).collect(),
        descriptors,
        watches,
        threads: std::fs::read_dir(format!("{process}/task")).unwrap().count(),
        entries,
        open: agent.json("status").unwrap()["connections_open"].as_u64().unwrap(),
    }
}

/// The inodes of cgroups, and of what tells of them, outside of the bed.
fn elsewhere(bed: &Testbed) -> BTreeSet<u64> {
    let root = lark_sys::cgroup::mount().unwrap();
    let (own, mut open, mut all) = (root.join(bed.name()), vec![root], BTreeSet::new());
    while let Some(path) = open.pop() {
        if path == own {
            continue;
        }
        let inode = |path: &Path| std::fs::metadata(path).map(|meta| meta.ino());
        all.extend([inode(&path), inode(&path.join("cgroup.events"))].into_iter().flatten());
        let inner = std::fs::read_dir(&path).into_iter().flatten().flatten();
        open.extend(inner.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
    }
    all
}

/// Entries of pods, asked from the kernel: a cgroup's id and a hook's number, padded.
fn pods(pins: &Path) -> u64 {
    let map = Map::HashMap(MapData::from_pin(pins.join("maps/POD")).unwrap());
    let map = HashMap::<_, [u8; 16], PodEntry>::try_from(map).unwrap();
    map.keys().map(Result::unwrap).count() as u64
}

fn files(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries.map(|e| if e.file_type().unwrap().is_dir() { files(&e.path()) } else { 1 }).sum()
}

/// A metric's value, of the sample that begins so.
pub(crate) fn metric(agent: &Agent, sample: &str) -> f64 {
    let url = format!("http://{}:15020/metrics", agent.node.ip);
    let text = agent.node.place.run("curl", &["-sSf", &url]).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in {text}")).parse().unwrap()
}

/// How often an agent has captured each pod, by what its log says.
pub(crate) fn captures(agent: &Agent) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for line in agent.process.log().lines() {
        let name = line.split_once(": captured pod=\"shop/").and_then(|(_, rest)| rest.split('"').next());
        if let Some(name) = name {
            *all.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    all
}

/// The state of a workload, and why, as an agent tells it.
pub(crate) fn state(agent: &Agent, name: &str) -> String {
    let workloads = agent.json("workloads").unwrap();
    let of = |w: &&Value| w["name"] == name;
    workloads.as_array().unwrap().iter().find(of).map_or_else(String::new, |w| w.to_string())
}

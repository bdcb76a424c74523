//! Many connections: at once, one after another, and cut off in the middle; and many pods.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use lark_abi::{DestinationKey, DestinationValue, Flow, PodEntry, Tuple};
use lark_testbed::{Agent, Nginx, Record, Redis, eventually};
use serde_json::Value;

use crate::house::House;
use crate::workers;

/// What an agent holds; equal before and after.
fn held(agent: &Agent) -> (usize, u64, u64, u64) {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", agent.process.pid())).unwrap().count();
    let bpf = agent.json("bpf").unwrap();
    let map = |name: &str| {
        let maps = bpf["maps"].as_array().unwrap();
        maps.iter().find(|m| m["name"] == name).unwrap()["entries"].as_u64().unwrap()
    };
    let open = agent.json("status").unwrap()["connections_open"].as_u64().unwrap();
    (descriptors, map("FLOWS"), map("DELIVERIES"), open)
}

/// Connections that were refused so far.
fn denied(agent: &Agent) -> u64 {
    let edges = agent.json("edges").unwrap();
    let denied = |edge: &&Value| edge["secured"] == "denied";
    edges.as_array().unwrap().iter().filter(denied).map(|edge| edge["connections"].as_u64().unwrap()).sum()
}

/// Resident memory in KiB.
fn memory(agent: &Agent) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.process.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn two_hundred_thousand_short_connections_leave_nothing_behind() {
    lark_testbed::need("redis-benchmark", "redis-tools").unwrap();
    let house = House::captured();
    let host = house.server.ip.to_string();
    let _redis = Redis::start(&house.bed, &house.server).unwrap();
    // Without keep-alive: a connection for each request, closed by the client, all to one port.
    let run = |count: &str| {
        let arguments = ["-h", &host, "-k", "0", "-n", count, "-c", "50", "-t", "ping_mbulk", "-q"];
        house
            .client
            .place
            .run("redis-benchmark", &arguments)
            .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()))
    };
    run("2000");
    let settled = |agent: &Agent| {
        eventually(Duration::from_secs(20), "connections end", || Ok(held(agent).3 == 0)).unwrap();
    };
    [&house.one, &house.two].into_iter().for_each(settled);
    let before = [&house.one, &house.two].map(|agent| (held(agent), memory(agent)));
    let said = run("200000");
    assert!(said.contains("requests per second"), "{said}");
    [&house.one, &house.two].into_iter().for_each(settled);
    for (agent, (held_before, memory_before)) in [&house.one, &house.two].into_iter().zip(before) {
        let held_after = held(agent);
        assert_eq!((held_before.1, held_before.2), (held_after.1, held_after.2), "map entries are left over");
        // Workers open their second tunnel whenever it is first needed; connections leave no descriptor.
        assert!(held_after.0 <= held_before.0 + 8, "descriptors: {} then {}", held_before.0, held_after.0);
        let memory_after = memory(agent);
        assert!(memory_after < memory_before + 16 * 1024, "memory: {memory_before} then {memory_after} KiB");
    }
    assert_eq!(denied(&house.one), 0, "connections were refused");
    workers::none(&house);
}

const THOUSAND: &str = r"
import socket, sys, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
open_ones = []
for i in range(1000):
    s = socket.create_connection((sys.argv[1], 8080), 20)
    open_ones.append(s)
for s in open_ones:
    s.sendall(b'GET /who HTTP/1.1\r\nHost: x\r\n\r\n')
for s in open_ones:
    s.settimeout(20)
    assert s.recv(4096).startswith(b'HTTP/1.1 200')
print('all answered', flush=True)
sys.stdin.read()
";

#[test]
fn a_thousand_connections_are_open_at_once() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let mut many = house.client.place.command("python3");
    many.args(["-c", &format!("{THOUSAND}\nimport time; time.sleep(600)"), &house.server.ip.to_string()]);
    let many = house.client.place.start(many, &house.bed.directory().join("many.log")).unwrap();
    eventually(Duration::from_secs(60), "all are answered", || Ok(many.log().contains("all answered")))
        .unwrap_or_else(|e| panic!("{e:#} {}\n{}", many.log(), house.logs()));
    for agent in [&house.one, &house.two] {
        assert_eq!(held(agent).3, 1000);
        let connections = agent.json("connections").unwrap();
        let secured = connections.as_array().unwrap().iter().filter(|c| c["secured"] == "mtls").count();
        assert_eq!(secured, 1000);
    }
    drop(many);
    for agent in [&house.one, &house.two] {
        eventually(Duration::from_secs(20), "all end with their process", || Ok(held(agent).3 == 0)).unwrap();
    }
    workers::none(&house);
}

/// Two ports that say who they are and whom they see, before the client says anything.
const TELLERS: &str = r"
import asyncio, sys
def teller(letter):
    async def tell(reader, writer):
        host, port = writer.get_extra_info('peername')[:2]
        try:
            writer.write(f'{letter} {host} {port}\n'.encode())
            await writer.drain()
            await reader.read()
        except OSError:
            pass
        writer.close()
    return tell
async def main():
    for letter, port in ('A', 7001), ('B', 7002):
        await asyncio.start_server(teller(letter), '0.0.0.0', port, backlog=4096)
    print('ready', flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
";

/// A connect to A with bytes, cut off at once; then from the same port to B, which must be B and must
/// see this very port.
const CUT_OFF: &str = r"
import socket, struct, sys
host, own, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
def dial(port, source):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((own, source))
    s.setblocking(False)
    try: s.connect((host, port))
    except BlockingIOError: pass
    return s
wrong = lost = 0
for i in range(count):
    source = 20000 + i % 5000
    s = dial(7001, source)
    try: s.send(b'for A only')
    except OSError: pass
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    s.close()
    s = dial(7002, source)
    s.setblocking(True); s.settimeout(20)
    try: said = s.recv(100).decode()
    except OSError: said = ''
    if said == '': lost += 1
    elif said != f'B {own} {source}\n': wrong += 1; print('wrong', repr(said), source)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    s.close()
print('done', wrong, lost)
";

#[test]
fn a_port_used_again_at_once_never_leads_to_the_wrong_place_or_client() {
    let house = House::captured();
    let mut tellers = house.server.place.command("python3");
    tellers.args(["-c", TELLERS]);
    let tellers = house.server.place.start(tellers, &house.bed.directory().join("tellers.log")).unwrap();
    eventually(Duration::from_secs(20), "both ports answer", || Ok(tellers.log().contains("ready"))).unwrap();
    let (host, own) = (house.server.ip.to_string(), house.client.ip.to_string());
    let said = house
        .client
        .place
        .run("python3", &["-c", CUT_OFF, &host, &own, "10000"])
        .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    assert_eq!(
        said.trim(),
        "done 0 0",
        "{}",
        house.logs().lines().rev().take(20).collect::<Vec<_>>().join("\n")
    );
    workers::none(&house);
}

/// Everything that an agent or the kernel holds for the pods of a node.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    /// Files below the agent's place on bpffs.
    pins: usize,
    /// Kernel ids of the links that are pinned.
    links: BTreeSet<u64>,
    /// Network namespaces that the agent holds open: inode, or the kernel's name of it.
    namespaces: BTreeSet<String>,
    /// The agent's descriptors by kind: sockets, maps, programs, directories of cgroups and so on.
    descriptors: BTreeMap<String, usize>,
    /// Entries of each map that has any, those of pods among them.
    entries: BTreeMap<&'static str, usize>,
    /// Connections that the agent carries.
    open: u64,
}

fn kept(house: &House) -> Kept {
    let agent = &house.one;
    let pins = house.bed.pins(&agent.node);
    let bpf = agent.json("bpf").unwrap();
    let links = bpf["links"].as_array().unwrap().iter().map(|l| l["link_id"].as_u64().unwrap()).collect();
    let (mut namespaces, mut descriptors) = (BTreeSet::new(), BTreeMap::new());
    for entry in std::fs::read_dir(format!("/proc/{}/fd", agent.process.pid())).unwrap() {
        // One that was closed meanwhile is none.
        let Ok(target) = std::fs::read_link(entry.unwrap().path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        let kind = match target.as_str() {
            t if t.starts_with("net:") || t.starts_with("/run/netns/") => "namespace",
            t if t.starts_with("/sys/fs/cgroup") => "cgroup",
            t if t.starts_with("anon_inode:") => t,
            t => t.split(':').next().unwrap_or_default(),
        };
        if kind == "namespace" {
            namespaces.insert(target.clone());
        }
        *descriptors.entry(kind.to_owned()).or_insert(0) += 1;
    }
    Kept {
        pins: walk(&pins),
        links,
        namespaces,
        descriptors,
        entries: BTreeMap::from([
            // A cgroup's id and a hook's number, padded.
            ("POD", entries::<[u8; 16], PodEntry>(&pins, "POD")),
            ("DESTINATIONS", entries::<DestinationKey, DestinationValue>(&pins, "DESTINATIONS")),
            ("FLOWS", entries::<Tuple, Flow>(&pins, "FLOWS")),
            ("DELIVERIES", entries::<Tuple, Flow>(&pins, "DELIVERIES")),
        ]),
        open: held(agent).3,
    }
}

/// Entries of a pinned map, asked from the kernel.
fn entries<K: aya::Pod, V: aya::Pod>(pins: &Path, map: &str) -> usize {
    let data = MapData::from_pin(pins.join("maps").join(map)).unwrap();
    HashMap::<_, K, V>::try_from(Map::HashMap(data)).unwrap().keys().map(Result::unwrap).count()
}

/// Pods that are pinned.
fn pinned(agent: &Agent) -> usize {
    let bpf = agent.json("bpf").unwrap();
    bpf["links"].as_array().unwrap().iter().map(|l| l["pod"].to_string()).collect::<BTreeSet<_>>().len()
}

/// Files below a directory.
fn walk(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries.map(|e| if e.file_type().unwrap().is_dir() { walk(&e.path()) } else { 1 }).sum()
}

#[test]
fn a_thousand_pod_lives_leave_nothing_behind() {
    let mut record = Record::of("pods come and go").unwrap();
    let mut house = House::captured_with(&["--workers", "2"]);
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let node = house.nodes.0.clone();
    let url = format!("http://{}:8080/", house.server.ip);
    let mut before = None;
    let mut last: Vec<lark_testbed::Pod> = Vec::new();
    for batch in 0..20 {
        let pods: Vec<_> =
            (0..50).map(|n| house.bed.pod(&node, &format!("life{batch}-{n}")).unwrap()).collect();
        house.mesh.replace(&last, &pods, "life").unwrap();
        house.one.wait_captured(52).unwrap();
        for pod in &pods {
            let said = pod.place.run("curl", &["-sS", "--max-time", "20", &url]);
            let said = said.unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
            assert_eq!(said, "canary-of-lark\n");
            record.compared(said.len());
        }
        if batch == 0 {
            // Two at once, so that each worker has its tunnel already.
            let both = ["-sS", "-Z", "--parallel-immediate", "--max-time", "20", &url, &url];
            pods.iter().for_each(|pod| {
                assert_eq!(pod.place.run("curl", &both).unwrap(), "canary-of-lark\ncanary-of-lark\n")
            });
        }
        // By turns the runtime and discovery are first to know that they have ended.
        if batch % 2 == 0 {
            house.mesh.replace(&pods, &[], "life").unwrap();
            house.one.wait_captured(2).unwrap();
            last = Vec::new();
        } else {
            last.clone_from(&pods);
        }
        for pod in &pods {
            house.bed.end(&node, pod).unwrap();
        }
        record.injected(50);
        if batch == 0 {
            // A pod's hooks go when its last connection is over.
            eventually(Duration::from_secs(20), "only two are pinned", || Ok(pinned(&house.one) == 2))
                .unwrap();
            before = Some(kept(&house));
        }
    }
    house.mesh.replace(&last, &[], "life").unwrap();
    house.one.wait_captured(2).unwrap();
    eventually(Duration::from_secs(20), "nothing more is held than after the first fifty", || {
        let now = kept(&house);
        anyhow::ensure!(Some(&now) == before.as_ref(), "{now:#?} instead of {before:#?}");
        Ok(true)
    })
    .unwrap();
    // It really was looked: two pods with their hooks and entries, and their namespaces beside the node's.
    let before = before.unwrap();
    let hooks = lark_bpf::hook::Hook::ALL.len();
    assert_eq!((before.namespaces.len(), before.links.len()), (3, 2 * hooks), "{before:#?}");
    assert!(before.entries["POD"] >= 2 && before.entries["DESTINATIONS"] > 0, "{before:#?}");
    assert!(before.pins > before.links.len(), "{before:#?}");
    House::checks(&house.one).unwrap();
    assert!(!house.one.process.log().contains("ERROR"), "{}", house.one.process.log());
    record
        .write(format!(
            "equal: {} pins, {} links, {} namespaces, {} descriptors, {} entries",
            before.pins,
            before.links.len(),
            before.namespaces.len(),
            before.descriptors.values().sum::<usize>(),
            before.entries.values().sum::<usize>()
        ))
        .unwrap();
}

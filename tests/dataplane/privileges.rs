//! What an agent may do: exactly the capabilities of deploy/capabilities.md, and no fewer.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use lark_sys::capability::REQUIRED;
use lark_testbed::{Agent, Nginx, Testbed, Wire, lark_binary};

use crate::house::House;

/// The capability as setpriv(1) writes it.
fn short(name: &str) -> String {
    name.trim_start_matches("CAP_").to_ascii_lowercase()
}

#[test]
fn each_capability_that_is_missing_is_named_and_nothing_is_attached() {
    let house = House::new();
    let links = |house: &House| house.one.json("bpf").unwrap()["links"].clone();
    for capability in REQUIRED {
        let right = Agent::command(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
        let without = short(capability.name);
        let output = std::process::Command::new("setpriv")
            .args([format!("--bounding-set=-{without}"), format!("--inh-caps=-{without}")])
            .arg(lark_binary().unwrap())
            // The arguments after the place's own: shell, script, cgroup, namespace, program.
            .args(right.get_args().skip(5))
            .args(["--admin-socket", house.bed.directory().join("bare.sock").to_str().unwrap()])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = said.lines().last().unwrap_or_default();
        let named = format!("capabilities are missing: {} (to {})", capability.name, capability.reason);
        assert!(last.contains(&named), "{said}");
        let others = REQUIRED.iter().filter(|other| other.name != capability.name);
        assert!(others.into_iter().all(|other| !last.contains(other.name)), "{said}");
    }
    assert_eq!(links(&house), serde_json::json!([]));
}

/// A `lark` that is the real one, but whose agents have exactly these capabilities and can gain none.
fn confined(directory: &Path) -> std::path::PathBuf {
    let all: Vec<String> = REQUIRED.iter().map(|c| format!("+{}", short(c.name))).collect();
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = agent ] || exec {lark} \"$@\"\n\
         exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,{all} {lark} \"$@\"\n",
        lark = lark_binary().unwrap().display(),
        all = all.join(",")
    );
    let path = directory.join("lark");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The set of a process's capabilities, as /proc writes it.
fn set(agent: &Agent, which: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
    line.trim().to_owned()
}

#[test]
fn with_exactly_its_capabilities_an_agent_does_everything() {
    let home = tempfile::tempdir().unwrap();
    let mut house = House::on(Testbed::with_lark(&confined(home.path())).unwrap(), &[]);
    // A namespace that is known by a process, of another user and with capabilities that the agent lacks.
    let mut stranger = house.client.place.command("setpriv");
    stranger.args(["--reuid=65534", "--clear-groups", "sleep", "600"]);
    let stranger = house.client.place.start(stranger, &home.path().join("stranger.log")).unwrap();
    let mut stronger = house.neighbour.place.command("sleep");
    stronger.arg("600");
    let stronger = house.neighbour.place.start(stronger, &home.path().join("stronger.log")).unwrap();
    for (workload, process) in [(0, &stranger), (1, &stronger)] {
        let path = format!("/proc/{}/ns/net", process.pid());
        house.mesh.change(|d| d["workloads"][workload]["networkNamespace"] = path.into()).unwrap();
    }
    house.capture();
    let mask = REQUIRED.iter().fold(0_u64, |mask, c| mask | 1 << c.bit());
    for agent in [&house.one, &house.two] {
        for which in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(set(agent, which), format!("{mask:016x}"), "{which}");
        }
    }

    let nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let _near = Nginx::start(&house.bed, &house.neighbour).unwrap();
    let wire = Wire::listen(&house.bed).unwrap();
    let asked = |house: &House, ip: &str| house.curl(&format!("http://{ip}:8080/"));
    let everywhere = |house: &House| {
        for ip in
            [house.server.ip.to_string(), format!("[{}]", house.server.ip6), house.neighbour.ip.to_string()]
        {
            assert_eq!(asked(house, &ip), "canary-of-lark\n");
        }
        for agent in [&house.one, &house.two] {
            let check = agent.lark(&["check"]).unwrap();
            assert!(check.status.success(), "{}\n{}", String::from_utf8_lossy(&check.stdout), house.logs());
        }
    };
    everywhere(&house);
    // An upgrade, with the new agent as confined as the old one.
    house.one.upgrade(&house.bed, &house.controller, &house.mesh).unwrap();
    assert_eq!(set(&house.one, "CapEff:"), format!("{mask:016x}"));
    everywhere(&house);
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    // A release and a capture again, a kill and a start: nothing is left that it may not change.
    house.mesh.capture(false).unwrap();
    house.one.wait_captured(0).unwrap();
    house.capture();
    house.one.process.kill();
    house.one = Agent::start(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    house.one.wait_captured(2).unwrap();
    everywhere(&house);
    // Nothing went wrong but that certificates have to be waited for.
    let log = house.one.process.log();
    let wrong = |line: &&str| line.contains("ERROR") || line.contains("WARN") && !line.contains("pending");
    assert_eq!(log.lines().filter(wrong).collect::<Vec<_>>(), Vec::<&str>::new());
    nginx.logged(&house.client.ip.to_string()).unwrap();
}

#[test]
fn the_page_of_capabilities_is_the_units_and_the_agents() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = std::fs::read_to_string(root.join("deploy/capabilities.md")).unwrap();
    let rows: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `CAP_")?.split('`').next()).collect();
    let named: Vec<&str> = REQUIRED.iter().map(|c| c.name.trim_start_matches("CAP_")).collect();
    assert_eq!(rows, named);
    let unit = std::fs::read_to_string(root.join("deploy/systemd/lark-agent.service")).unwrap();
    let bound = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    assert_eq!(bound, REQUIRED.map(|c| c.name).join(" "));
}

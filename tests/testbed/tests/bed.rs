//! The bed itself: nodes and pods reach each other over a wire that can be listened to, many beds stand
//! side by side, and nothing is left of them, however their owner ends.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use lark_testbed::{Fault, Nginx, Testbed, Wire, eventually, on_pure_cgroup_v2};

/// Everything on this machine that bears a bed's name.
fn left_of(bed: &str) -> BTreeSet<String> {
    let cgroups = lark_sys::cgroup::mount().map(|m| m.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = std::env::temp_dir().to_string_lossy().into_owned();
    [cgroups.as_str(), "/run/netns", "/sys/fs/bpf", &temporary]
        .into_iter()
        .flat_map(|directory| std::fs::read_dir(directory).into_iter().flatten().flatten())
        .map(|entry| entry.path().to_string_lossy().into_owned())
        .filter(|path| path.rsplit('/').next().is_some_and(|n| n == bed || n.starts_with(&format!("{bed}-"))))
        .collect()
}

#[test]
fn pods_of_two_nodes_meet_over_a_wire_that_shows_everything() -> Result<()> {
    let mut bed = Testbed::new()?;
    let (one, two) = (bed.node("one")?, bed.node("two")?);
    let (client, server) = (bed.pod(&one, "client")?, bed.pod(&two, "server")?);
    let _nginx = Nginx::start(&bed, &server)?;
    let wire = Wire::listen(&bed)?;
    for host in [server.ip.to_string(), format!("[{}]", server.ip6)] {
        let who = client.place.run("curl", &["-sSf", "--max-time", "10", &format!("http://{host}:8080/")])?;
        assert_eq!(who, "canary-of-lark\n");
    }
    assert!(wire.count("canary-of-lark")? >= 2);
    let name = bed.name().to_owned();
    assert!(!left_of(&name).is_empty());
    drop(bed);
    assert_eq!(left_of(&name), BTreeSet::new());
    Ok(())
}

#[test]
fn pods_that_come_and_go_change_nothing_for_their_neighbours() -> Result<()> {
    let mut bed = Testbed::new()?;
    let node = bed.node("one")?;
    // By default a bridge has the least address of its ports; its pods would speak to an old one for a while.
    let gateway = |place: &lark_testbed::Place| place.run("ip", &["-o", "link", "show", "pods"]);
    let address = |said: String| said.split("link/ether ").nth(1).map(|rest| rest[..17].to_owned());
    let before = address(gateway(&node.place)?);
    assert!(before.is_some());
    for number in 0..8 {
        let pod = bed.pod(&node, &format!("pod{number}"))?;
        assert_eq!(address(gateway(&node.place)?), before);
        bed.end(&node, &pod)?;
        assert_eq!(address(gateway(&node.place)?), before);
    }
    Ok(())
}

#[test]
fn ten_beds_stand_side_by_side() -> Result<()> {
    let beds = (0..10)
        .map(|_| {
            let mut bed = Testbed::new()?;
            let node = bed.node("one")?;
            let pod = bed.pod(&node, "pod")?;
            Ok((bed, node, pod))
        })
        .collect::<Result<Vec<_>>>()?;
    let addresses: BTreeSet<_> = beds.iter().map(|(_, _, pod)| pod.ip).collect();
    assert_eq!(addresses.len(), 1, "beds are alike");
    for (_, node, pod) in &beds {
        node.place.run("ping", &["-c", "1", "-W", "5", &pod.ip.to_string()]).or_else(|_| {
            // ping is not everywhere; a refused connect shows the way too.
            node.place
                .run("sh", &["-c", &format!("curl -s --max-time 5 http://{}:1/; test $? -eq 7", pod.ip)])
        })?;
    }
    Ok(())
}

#[test]
fn a_killed_owner_leaves_nothing() -> Result<()> {
    let home = tempfile::tempdir()?;
    let told = home.path().join("name");
    // Cargo builds examples with tests, beside them.
    let own = std::env::current_exe()?;
    let example = own.ancestors().nth(2).map(|target| target.join("examples/owner")).unwrap_or_default();
    let mut owner = Command::new(&example)
        .arg(&told)
        .spawn()
        .map_err(|e| anyhow::anyhow!("{}: {e}; build it with `cargo build --examples`", example.display()))?;
    eventually(Duration::from_secs(30), "the bed stands", || Ok(told.exists()))?;
    let name = std::fs::read_to_string(&told)?;
    assert!(!left_of(&name).is_empty());
    owner.kill()?;
    owner.wait()?;
    eventually(Duration::from_secs(30), "nothing is left", || Ok(left_of(&name).is_empty()))
}

#[test]
fn a_bed_stands_on_pure_cgroup_v2_too() -> Result<()> {
    on_pure_cgroup_v2("pods_of_two_nodes_meet_over_a_wire_that_shows_everything")
}

#[test]
fn a_delayed_wire_is_late_and_out_of_order_and_loses_nothing() -> Result<()> {
    let mut bed = Testbed::new()?;
    let (one, two) = (bed.node("one")?, bed.node("two")?);
    let (client, server) = (bed.pod(&one, "client")?, bed.pod(&two, "server")?);
    let nginx = Nginx::start(&bed, &server)?;
    let body: String = (0..200_000).map(|i| format!("{i} ")).collect();
    std::fs::write(nginx.files.join("body"), &body)?;
    let fault = Fault::delay(&bed, &two, Duration::from_millis(20), Duration::from_millis(5))?;
    let url = format!("http://{}:8080/body", server.ip);
    let format = ["-sSf", "--max-time", "60", "-o", "/dev/null", "-w", "%{time_connect}", &url];
    let connect: f64 = client.place.run("curl", &format)?.parse()?;
    assert!(connect >= 0.04, "a round trip took {connect} s");
    let got = client.place.run("curl", &["-sSf", "--max-time", "60", &url])?;
    assert!(got == body, "{} of {} bytes, or others", got.len(), body.len());
    drop(fault);
    let got = client.place.run("curl", &["-sSf", "--max-time", "60", &url])?;
    assert_eq!(got.len(), body.len());
    Ok(())
}

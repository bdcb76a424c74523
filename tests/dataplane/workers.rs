//! Which worker carries what.

use std::time::Duration;

use lark_testbed::{Nginx, Pod, Running, eventually};

use crate::house::{House, metric};
use crate::upgrade::echo;

/// Opens so many connections in a row, then has each answered, and keeps them.
const HOLD: &str = r"
import socket, sys, time
held = [socket.create_connection((sys.argv[1], 7777), 20) for _ in range(int(sys.argv[2]))]
for s in held:
    s.sendall(b'hello\n')
    assert s.recv(100) == b'hello\n'
print('held', flush=True)
time.sleep(600)
";

/// Connections from pod client.
pub(crate) fn hold(house: &House, count: usize) -> Running {
    hold_from(house, &house.client, count)
}

fn hold_from(house: &House, pod: &Pod, count: usize) -> Running {
    let mut command = pod.place.command("python3");
    command.args(["-c", HOLD, &house.server.ip.to_string(), &count.to_string()]);
    let log = house.bed.directory().join(format!("held-{}.log", pod.ip));
    let held = pod.place.start(command, &log).unwrap();
    eventually(Duration::from_secs(20), "connections are open", || Ok(held.log().contains("held")))
        .unwrap_or_else(|e| panic!("{e:#} {}\n{}", held.log(), house.logs()));
    held
}

/// Open connections of each worker of the first node's agent.
fn connections(house: &House) -> Vec<u64> {
    let url = format!("http://{}:15020/metrics", house.nodes.0.ip);
    let text = house.nodes.0.place.run("curl", &["-sS", "--max-time", "10", &url]).unwrap();
    let of =
        |line: &str| Some(line.strip_prefix("lark_worker_connections{")?.split_once(' ')?.1.parse().unwrap());
    text.lines().filter_map(of).collect()
}

/// No worker has a connection any more, as the kernel counts them.
pub(crate) fn none(house: &House) {
    eventually(Duration::from_secs(20), "no connection is open", || {
        Ok(connections(house).iter().sum::<u64>() == 0)
    })
    .unwrap();
}

#[test]
fn connections_that_are_made_at_once_are_shared_out_over_the_workers() {
    let house = House::captured_with(&["--workers", "4"]);
    let _echo = echo(&house);
    let first = hold(&house, 6);
    let mut open = connections(&house);
    open.sort_unstable();
    assert_eq!(open, [1, 1, 2, 2]);
    let second = hold(&house, 6);
    assert_eq!(connections(&house), [3; 4]);
    drop((first, second));
    none(&house);
}

#[test]
fn connections_one_after_the_other_need_one_workers_tunnel() {
    let house = House::captured_with(&["--workers", "4"]);
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    for _ in 0..12 {
        house.curl(&format!("http://{}:8080/", house.server.ip));
        none(&house);
    }
    let of = |worker| metric(&house, &format!("lark_tunnel_accepted{{worker=\"{worker}\"}}"));
    assert_eq!([0, 1, 2, 3].map(of).iter().sum::<u64>(), 1);
}

#[test]
fn connections_of_an_agent_before_count_for_no_worker() {
    let mut house = House::captured_with(&["--workers", "2"]);
    let _echo = echo(&house);
    let held = hold(&house, 5);
    assert_eq!(connections(&house), [3, 2]);
    let old =
        house.one.succeed(&house.bed, &house.controller, &house.mesh, &["--workers=2".to_owned()]).unwrap();
    assert_eq!(connections(&house), [0, 0]);
    // Their end is seen by the new agent's hooks.
    drop(held);
    eventually(Duration::from_secs(20), "the old agent has none", || {
        Ok(old.log().contains("all connections have finished"))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", old.log()));
    let _two = hold(&house, 2);
    assert_eq!(connections(&house), [1, 1]);
}

#[test]
fn tunnels_of_a_pair_are_spread_over_the_workers_that_accept_them() {
    let house = House::captured_with(&["--workers", "4"]);
    let _echo = echo(&house);
    // As many at once as there are workers, so that each of the dialling agent has one.
    let _held = [&house.client, &house.neighbour].map(|pod| hold_from(&house, pod, 4));
    // Two pairs, four tunnels of each, each accepted by chance.
    let of = |worker| metric(&house, &format!("lark_tunnel_accepted{{worker=\"{worker}\"}}"));
    assert_eq!([0, 1, 2, 3].map(of), [2; 4]);
}

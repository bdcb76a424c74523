//! Peers that die, stop, vanish or are far away.

use std::time::Duration;

use lark_testbed::{Agent, Fault, Load, Nginx, Record, Wire, eventually};

use crate::house::House;

/// Nothing but connections that stay open.
const HELD: Load = Load { long: 3, short: 0, block: 16 * 1024, pause: Duration::from_millis(5), life: None };

/// One request in plaintext would show this on the wire.
const CANARY: &str = "canary-of-lark";

/// Asks nginx once; it must not be answered.
fn is_reset(house: &House) {
    let url = format!("http://{}:8080/{CANARY}", house.server.ip);
    let output = house.client.place.output("curl", &["-sS", "--max-time", "25", &url]).unwrap();
    // Reset after it was accepted, or so early that curl takes it for a refusal.
    assert!(matches!(output.status.code(), Some(7 | 52 | 55 | 56)), "{output:?}\n{}", house.logs());
}

/// How node one's agent denied connections last.
fn reason(house: &House) -> String {
    let edges = house.one.json("edges").unwrap();
    let denied = edges.as_array().unwrap().iter().find(|edge| edge["secured"] == "denied");
    denied.and_then(|edge| edge["reason"].as_str()).unwrap_or_default().to_owned()
}

#[test]
fn a_dead_peer_is_a_reset_and_never_plaintext() {
    let mut record = Record::of("peer's agent killed").unwrap();
    let mut house = House::captured();
    let (_nginx, _echo) = (Nginx::start(&house.bed, &house.server).unwrap(), house.echo());
    let traffic = house.traffic(HELD);
    let wire = Wire::listen(&house.bed).unwrap();
    house.two.process.kill();
    record.injected(1);
    (0..3).for_each(|_| is_reset(&house));
    assert_eq!(wire.count(CANARY).unwrap(), 0);
    assert!(house.one.table(&["edges"]).unwrap().contains("⊘ denied"));
    let reason = reason(&house);
    house.two = Agent::start(&house.bed, &house.nodes.1, &house.controller, &house.mesh).unwrap();
    house.two.wait_captured(1).unwrap();
    traffic.flows(10).unwrap();
    let seen = traffic.finish().unwrap();
    assert_eq!((seen.lost, seen.stalled), (3, 0), "{seen:?}");
    record.traffic(seen);
    record
        .write(format!(
            "3 of 3 new ones reset for {reason}, canary 0 times on the wire, mTLS again afterwards"
        ))
        .unwrap();
}

/// The peer says nothing any more, from `silence` until what that returns is dropped.
fn silent<M>(fault: &str, silence: impl FnOnce(&House) -> M) {
    let mut record = Record::of(fault).unwrap();
    let house = House::captured_with(&["--keepalive", "3"]);
    let (_nginx, _echo) = (Nginx::start(&house.bed, &house.server).unwrap(), house.echo());
    let traffic = house.traffic(HELD);
    let wire = Wire::listen(&house.bed).unwrap();
    let silenced = silence(&house);
    record.injected(1);
    eventually(Duration::from_secs(40), "open connections are reset", || Ok(traffic.seen()?.lost >= 3))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    (0..2).for_each(|_| is_reset(&house));
    assert_eq!(wire.count(CANARY).unwrap(), 0);
    let reason = reason(&house);
    assert!(reason.starts_with("tunnel_"), "{reason}");
    drop(silenced);
    eventually(Duration::from_secs(40), "it works again", || {
        let before = traffic.seen()?.blocks;
        std::thread::sleep(Duration::from_millis(100));
        Ok(traffic.seen()?.blocks > before)
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    let seen = traffic.finish().unwrap();
    record.traffic(seen);
    record
        .write(format!(
            "2 of 2 new ones reset for {reason}, canary 0 times on the wire, mTLS again afterwards"
        ))
        .unwrap();
}

/// A process that runs again when this is dropped.
struct Stopped(u32);

impl Stopped {
    fn new(process: u32) -> Self {
        signal(process, "STOP");
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, "CONT");
    }
}

fn signal(process: u32, name: &str) {
    let status = std::process::Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status();
    assert!(status.unwrap().success());
}

#[test]
fn a_peer_that_says_nothing_is_a_reset_within_the_keepalive() {
    silent("peer's agent stopped (SIGSTOP)", |house| Stopped::new(house.two.process.pid()));
}

#[test]
fn a_blocked_tunnel_port_is_a_reset_within_the_keepalive() {
    silent("peer's tunnel port blocked", |house| Fault::block(&house.nodes.1, 15008).unwrap());
}

#[test]
fn a_node_that_vanishes_is_found_by_keepalive_and_its_connections_are_reset() {
    silent("the peer's node vanishes from the wire", |house| {
        Fault::cut_off(&house.bed, &house.nodes.1).unwrap()
    });
}

/// A download of some megabytes, twice, compared with what was served.
fn download(house: &House, record: &mut Record) {
    let nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let body: String = (0..400_000).map(|i| format!("{i} ")).collect();
    std::fs::write(nginx.files.join("body"), &body).unwrap();
    let url = format!("http://{}:8080/body", house.server.ip);
    for _ in 0..2 {
        let got = house.client.place.run("curl", &["-sSf", "--max-time", "100", &url]);
        assert!(got.unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs())) == body);
        record.compared(body.len());
    }
}

#[test]
fn delay_and_reordering_lose_no_byte() {
    let mut record = Record::of("delay of 15 ms with reordering").unwrap();
    let house = House::captured();
    let (delay, jitter) = (Duration::from_millis(15), Duration::from_millis(5));
    let _late = Fault::delay(&house.bed, &house.nodes.1, delay, jitter).unwrap();
    record.injected(1);
    download(&house, &mut record);
    record.write("downloads whole and equal").unwrap();
}

#[test]
fn loss_and_a_slow_wire_lose_no_byte() {
    let mut record = Record::of("3 % loss on a wire of 200 Mbit/s").unwrap();
    let house = House::captured();
    let _loss = Fault::loss(&house.nodes.0, 3).unwrap();
    let _rate = Fault::rate(&house.nodes.1, 200).unwrap();
    record.injected(1);
    download(&house, &mut record);
    record.write("downloads whole and equal").unwrap();
}

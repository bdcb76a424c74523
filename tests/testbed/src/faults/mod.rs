//! Faults of the wire: loss by nftables' `numgen`, rate by tbf, delay and reordering by a relay between
//! two TAP devices (not every kernel has netem), a port that is blocked, and a node that is cut off. Beside
//! them the table of all faults that tests inject, and what these record.

/// What a test has seen.
mod record;
/// Every fault, what must happen, and its test.
mod table;

pub use record::{RECORDS, Record};
pub use table::{Mode, Row, Section, TABLE, rows};

use std::time::Duration;

use anyhow::{Context, Result};

use crate::bed::{Node, Testbed};
use crate::place::{Running, eventually};
use crate::servers::need;

/// Carries frames between two TAP devices, each after the delay and a random part of the jitter; frames
/// whose times cross are reordered. Arguments: two devices, delay and jitter in milliseconds. What a
/// device's queue cannot take is lost, as on any wire.
const RELAY: &str = r#"
import fcntl, heapq, os, random, select, struct, sys, time
def tap(name):
    fd = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, 0x400454ca, struct.pack('16sH22x', name.encode(), 0x1002))  # TUNSETIFF: IFF_TAP | IFF_NO_PI
    return fd
ends = [tap(sys.argv[1]), tap(sys.argv[2])]
delay, jitter = float(sys.argv[3]) / 1e3, float(sys.argv[4]) / 1e3
waiting, number = [], 0
print('relays', flush=True)
while True:
    pause = max(0, waiting[0][0] - time.monotonic()) if waiting else None
    for fd in select.select(ends, [], [], pause)[0]:
        try:
            for _ in range(64):
                frame = os.read(fd, 65536)
                number += 1
                due = time.monotonic() + delay + random.random() * jitter
                heapq.heappush(waiting, (due, number, ends[fd == ends[0]], frame))
        except BlockingIOError:
            pass
    while waiting and waiting[0][0] <= time.monotonic():
        _, _, fd, frame = heapq.heappop(waiting)
        try:
            os.write(fd, frame)
        except OSError:
            pass
"#;

/// A fault; mended when dropped.
#[derive(Debug)]
pub struct Fault {
    place: crate::place::Place,
    mend: Vec<String>,
    relay: Option<Running>,
}

impl Fault {
    fn make(place: crate::place::Place, make: &str, mend: &str) -> Result<Self> {
        place.run("sh", &["-c", make])?;
        Ok(Self { place, mend: vec!["-c".to_owned(), mend.to_owned()], relay: None })
    }

    /// Loses that share of the packets that reach a node from the wire.
    ///
    /// # Errors
    /// When nft is missing or refuses.
    pub fn loss(node: &Node, percent: u8) -> Result<Self> {
        need("nft", "nftables")?;
        let rules = format!(
            "nft 'table netdev lark {{ chain loss {{ type filter hook ingress device eth0 priority 0; numgen random mod 100 < {percent} drop; }}; }}'"
        );
        Self::make(node.place.clone(), &rules, "nft delete table netdev lark")
    }

    /// Limits what a node sends onto the wire.
    ///
    /// # Errors
    /// When tc refuses.
    pub fn rate(node: &Node, megabits: u32) -> Result<Self> {
        let rules = format!("tc qdisc add dev eth0 root tbf rate {megabits}mbit burst 64kb latency 50ms");
        Self::make(node.place.clone(), &rules, "tc qdisc del dev eth0 root")
    }

    /// Delays what a node sends and gets on the wire, each frame by `delay` and a random part of `jitter`,
    /// so that with a jitter frames overtake one another.
    ///
    /// # Errors
    /// When the bed's wire cannot be changed or the relay does not start.
    pub fn delay(bed: &Testbed, node: &Node, delay: Duration, jitter: Duration) -> Result<Self> {
        need("python3", "python3-minimal")?;
        let port = node.port();
        let wire = bed.wire_place().context("the wire")?;
        // A bridge of its own joins the node's port to the relay, so that the kernel cuts large segments
        // and fills in checksums before the relay sees a frame.
        let make = format!(
            "ip tuntap add {port}a mode tap && ip tuntap add {port}b mode tap && \
             ip link add {port}d type bridge mcast_snooping 0 && \
             ip link set {port}a master {port}d up && ip link set {port}b master br0 up && \
             ip link set {port}d up && ip link set {port} master {port}d"
        );
        let mend = format!(
            "ip link set {port} master br0; ip link del {port}d; ip link del {port}a; ip link del {port}b"
        );
        let mut fault = Self::make(wire, &make, &mend)?;
        let mut relay = fault.place.command("python3");
        relay.args(["-c", RELAY, &format!("{port}a"), &format!("{port}b")]);
        relay.args([delay, jitter].map(|d| d.as_millis().to_string()));
        let log = bed.directory().join(format!("delay-{port}.log"));
        let relay = fault.relay.insert(fault.place.start(relay, &log)?);
        eventually(Duration::from_secs(10), "the relay runs", || Ok(relay.log().contains("relays")))
            .with_context(|| relay.log())?;
        Ok(fault)
    }

    /// Drops what reaches a TCP port of a node from the wire, without a word to anybody.
    ///
    /// # Errors
    /// When nft is missing or refuses.
    pub fn block(node: &Node, port: u16) -> Result<Self> {
        need("nft", "nftables")?;
        let rules = format!(
            "nft 'table inet lark {{ chain block {{ type filter hook input priority 0; tcp dport {port} drop; }}; }}'"
        );
        Self::make(node.place.clone(), &rules, "nft delete table inet lark")
    }

    /// Takes a node off the wire without a word to anybody.
    ///
    /// # Errors
    /// When the bed's wire cannot be changed.
    pub fn cut_off(bed: &Testbed, node: &Node) -> Result<Self> {
        let port = node.port();
        let wire = bed.wire_place().context("the wire")?;
        Self::make(wire, &format!("ip link set {port} nomaster"), &format!("ip link set {port} master br0"))
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        self.relay = None;
        let arguments: Vec<&str> = self.mend.iter().map(String::as_str).collect();
        // A bed that is gone has no faults left.
        let _ = self.place.output("sh", &arguments);
    }
}

//! Faults of the wire: loss by nftables' `numgen`, rate by tbf, and a node that is cut off. This kernel
//! has no netem; delay and reordering are not made here.

use anyhow::{Context, Result};

use crate::bed::{Node, Testbed};
use crate::servers::need;

/// A fault; mended when dropped.
#[derive(Debug)]
pub struct Fault {
    place: crate::place::Place,
    mend: Vec<String>,
}

impl Fault {
    fn make(place: crate::place::Place, make: &str, mend: &str) -> Result<Self> {
        place.run("sh", &["-c", make])?;
        Ok(Self { place, mend: vec!["-c".to_owned(), mend.to_owned()] })
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
        let arguments: Vec<&str> = self.mend.iter().map(String::as_str).collect();
        // A bed that is gone has no faults left.
        let _ = self.place.output("sh", &arguments);
    }
}

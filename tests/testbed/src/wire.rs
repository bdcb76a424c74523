//! What crosses the wire between the nodes. A capture proves something only if it has seen all: a datagram goes
//! before what is captured and one after it, both must be in the capture, and nothing may have been dropped.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lark_sys::netns::NetNs;
use socket2::{Domain, Socket, Type};

use crate::bed::{Node, Pod, Testbed};
use crate::place::{Place, Running, eventually};
use crate::servers::need;

/// A capture of all frames on the wire.
#[derive(Debug)]
pub struct Wire {
    tcpdump: Running,
    file: PathBuf,
    control: Control,
}

/// Where datagrams are sent that the capture must have.
#[derive(Debug)]
struct Control {
    netns: PathBuf,
    /// The interface, where there is no way to it by an address.
    device: Option<&'static str>,
    to: IpAddr,
}

/// What the datagrams say, and the port, `discard`, to which they go.
const CONTROL: &str = "in-this-capture-";
const DISCARD: u16 = 9;

impl Control {
    fn say(&self, which: &str) -> Result<()> {
        let send = || {
            let socket = Socket::new(Domain::for_address(SocketAddr::new(self.to, 0)), Type::DGRAM, None)?;
            socket.set_broadcast(true)?;
            socket.bind_device(self.device.map(str::as_bytes))?;
            let text = format!("{CONTROL}{which}");
            socket.send_to(text.as_bytes(), &SocketAddr::new(self.to, DISCARD).into())
        };
        NetNs::open(&self.netns)?.within(send)?.context("send what the capture must have")?;
        Ok(())
    }
}

impl Wire {
    /// Begins to capture.
    ///
    /// # Errors
    /// When tcpdump is missing or does not start.
    pub fn listen(bed: &Testbed) -> Result<Self> {
        Self::at(bed, &bed.wire_place()?, "br0", Ipv4Addr::BROADCAST.into())
    }

    /// Begins to capture on every interface of a node: its loopback, its pods' wires and its own.
    ///
    /// # Errors
    /// As [`Self::listen`].
    pub fn of_node(bed: &Testbed, node: &Node) -> Result<Self> {
        Self::at(bed, &node.place, "any", Ipv4Addr::LOCALHOST.into())
    }

    /// Begins to capture in a pod, on its one interface.
    ///
    /// # Errors
    /// As [`Self::listen`].
    pub fn of_pod(bed: &Testbed, pod: &Pod) -> Result<Self> {
        let IpAddr::V4(own) = pod.ip else { anyhow::bail!("pods have IPv4 addresses") };
        let [a, b, c, _] = own.octets();
        // Its gateway.
        Self::at(bed, &pod.place, "eth0", Ipv4Addr::new(a, b, c, 254).into())
    }

    /// Begins to capture all that moves within a pod: on its interface, and what its agent delivers by its
    /// loopback.
    ///
    /// # Errors
    /// As [`Self::listen`].
    pub fn within_pod(bed: &Testbed, pod: &Pod) -> Result<Self> {
        Self::at(bed, &pod.place, "any", Ipv4Addr::LOCALHOST.into())
    }

    fn at(bed: &Testbed, place: &Place, interface: &'static str, to: IpAddr) -> Result<Self> {
        need("tcpdump", "tcpdump")?;
        // By its place, for there may be several at once.
        let netns = place.netns.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = bed.directory().join(format!("{netns}.pcap"));
        let mut command = place.command("tcpdump");
        // Each frame has a place for the longest possible one, so that the usual 2 MiB are full after eight of
        // them, and a burst of a single request loses some (libpcap, pcap-linux.c, prepare_tpacket_socket).
        let buffer = ["-B", "65536"];
        command.args(["-i", interface, "-U", "--immediate-mode", "-s", "0", "-Z", "root"]).args(buffer);
        command.arg("-w").arg(&file);
        let tcpdump = place.start(command, &bed.directory().join(format!("tcpdump-{netns}.log")))?;
        eventually(Duration::from_secs(10), "tcpdump listens", || {
            Ok(tcpdump.log().contains("listening on"))
        })?;
        let device = (to == IpAddr::V4(Ipv4Addr::BROADCAST)).then_some(interface);
        let control = Control { netns: place.netns.clone(), device, to };
        control.say("first")?;
        Ok(Self { tcpdump, file, control })
    }

    /// Ends the capture and returns its bytes.
    ///
    /// # Errors
    /// When tcpdump does not end, its file cannot be read, or it has not seen everything.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.control.say("last")?;
        self.settle()?;
        self.tcpdump.signal("INT");
        eventually(Duration::from_secs(10), "tcpdump ends", || Ok(!self.tcpdump.is_running()))?;
        let log = self.tcpdump.log();
        let dropped = log.lines().any(|line| {
            let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
            words.windows(3).any(|w| w[0] != "0" && w[1].starts_with("packet") && w[2] == "dropped")
        });
        ensure!(!dropped, "frames were dropped, so the capture proves nothing: {log}");
        let bytes = std::fs::read(&self.file)?;
        for which in ["first", "last"] {
            let text = format!("{CONTROL}{which}");
            ensure!(
                occurrences(&bytes, &text) > 0,
                "{text} is not in the capture, which proves nothing: {log}"
            );
        }
        Ok(bytes)
    }

    /// Waits until tcpdump has written what came: at its end it forgets what is still in the kernel's buffer,
    /// and a busy machine can keep it from running for longer than any pause. It answers a signal only when it
    /// runs, so the same answer several times says that nothing waits. Where frames never cease it runs anyhow.
    fn settle(&self) -> Result<()> {
        let mut last = (String::new(), 0);
        for _ in 0..12 {
            std::thread::sleep(Duration::from_millis(50));
            let before = self.answers().len();
            self.tcpdump.signal("USR1");
            eventually(Duration::from_secs(10), "tcpdump says how many frames it has", || {
                Ok(self.answers().len() > before)
            })?;
            let now = self.answers().pop().unwrap_or_default();
            last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
            if last.1 == 3 {
                break;
            }
        }
        Ok(())
    }

    /// How many frames it had, each time that it was asked.
    fn answers(&self) -> Vec<String> {
        let log = self.tcpdump.log();
        let whole =
            log.lines().filter(|line| line.contains("captured") && line.contains("dropped by kernel"));
        whole.map(|line| line.split(',').next().unwrap_or_default().to_owned()).collect()
    }

    /// Ends the capture and says how often the text was on the wire.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub fn count(self, text: &str) -> Result<usize> {
        Ok(occurrences(&self.finish()?, text))
    }
}

/// How often a text is in a capture's bytes.
pub fn occurrences(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
}

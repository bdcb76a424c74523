//! What crosses the wire between the nodes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::bed::{Node, Pod, Testbed};
use crate::place::{Place, Running, eventually};
use crate::servers::need;

/// A capture of all frames on the wire.
#[derive(Debug)]
pub struct Wire {
    tcpdump: Running,
    file: PathBuf,
}

impl Wire {
    /// Begins to capture.
    ///
    /// # Errors
    /// When tcpdump is missing or does not start.
    pub fn listen(bed: &Testbed) -> Result<Self> {
        Self::at(bed, &bed.wire_place()?, "br0")
    }

    /// Begins to capture on every interface of a node: its loopback, its pods' wires and its own.
    ///
    /// # Errors
    /// As [`Self::listen`].
    pub fn of_node(bed: &Testbed, node: &Node) -> Result<Self> {
        Self::at(bed, &node.place, "any")
    }

    /// Begins to capture in a pod, on its one interface.
    ///
    /// # Errors
    /// As [`Self::listen`].
    pub fn of_pod(bed: &Testbed, pod: &Pod) -> Result<Self> {
        Self::at(bed, &pod.place, "eth0")
    }

    fn at(bed: &Testbed, place: &Place, interface: &str) -> Result<Self> {
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
        Ok(Self { tcpdump, file })
    }

    /// Ends the capture and returns its bytes.
    ///
    /// # Errors
    /// When tcpdump does not end or its file cannot be read.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.settle()?;
        self.tcpdump.signal("INT");
        eventually(Duration::from_secs(10), "tcpdump ends", || Ok(!self.tcpdump.is_running()))?;
        Ok(std::fs::read(&self.file)?)
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
        let bytes = self.finish()?;
        anyhow::ensure!(bytes.len() > 100, "nothing was captured on the wire, so nothing is proved");
        Ok(bytes.windows(text.len()).filter(|w| *w == text.as_bytes()).count())
    }
}

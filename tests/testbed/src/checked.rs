//! Traffic whose every byte is compared: an echo server in one pod, a client in another that sends
//! random blocks and wants them back.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bed::{Pod, Testbed};
use crate::place::{Running, eventually};
use crate::servers::need;

const PORT: u16 = 7070;

/// Sends back what comes, and ends when the client does.
const SERVER: &str = r"
import socketserver, sys
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        try:
            while True:
                data = self.request.recv(262144)
                if not data: return
                self.request.sendall(data)
        except OSError: pass
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 1024
server = Server(('0.0.0.0', int(sys.argv[1])), Echo)
print('serves', flush=True)
server.serve_forever()
";

/// Arguments: address, port, file that ends it, long connections, short ones at a time, bytes of a block,
/// milliseconds between two blocks, milliseconds of a long one or -1, file for a line on each connection that failed.
/// Writes a line of JSON with all counts a few times a second and at its end.
const CLIENT: &str = r"
import datetime, json, os, socket, sys, threading, time
host, port, stop = sys.argv[1], int(sys.argv[2]), sys.argv[3]
long, short, size, pause, life = map(int, sys.argv[4:9])
words = open(sys.argv[9], 'a', buffering=1)
names = 'opened', 'blocks', 'bytes', 'corrupted', 'lost', 'refused', 'reset', 'stalled'
counts, lock = dict.fromkeys(names, 0), threading.Lock()
over = threading.Event()
def count(name, by=1):
    with lock: counts[name] += by
def exchange(s):
    sent, back = os.urandom(size), bytearray()
    try:
        s.sendall(sent)
        while len(back) < size:
            part = s.recv(262144)
            if not part: break
            back += part
    finally:
        count('bytes', len(back))
        if back != sent[:len(back)]: count('corrupted', sum(a != b for a, b in zip(sent, back)))
    # An end in place of an answer is one that a program takes for the whole: its bytes are missing.
    count('corrupted', size - len(back))
    if len(back) == size: count('blocks')
    return len(back) == size
def one(life):
    began, own, done = time.monotonic(), None, 0
    def failed(name, error):
        count(name)
        now = datetime.datetime.now(datetime.timezone.utc).isoformat('T', 'milliseconds')
        print(f'{now} {name}: {error}; port {own}, {done} blocks in {time.monotonic() - began:.3f} s', file=words)
    try:
        with socket.create_connection((host, port), 60) as s:
            own = s.getsockname()[1]
            while not over.is_set():
                if not exchange(s): return
                if not done: count('opened')
                done += 1
                time.sleep(pause / 1e3)
                if 0 <= life <= (time.monotonic() - began) * 1e3: break
            s.shutdown(socket.SHUT_WR)
            if s.recv(1): count('corrupted')
    except ConnectionRefusedError as e: failed('refused', e)
    except TimeoutError as e: failed('stalled', e)
    except OSError as e: failed('lost' if done else 'reset', e)
def again(life):
    while not over.is_set():
        one(life)
        time.sleep(pause / 1e3)
threads = [threading.Thread(target=again, args=(t,)) for t in [life] * long + [0] * short]
for t in threads: t.start()
while not os.path.exists(stop):
    with lock: print(json.dumps(counts), flush=True)
    time.sleep(0.2)
over.set()
for t in threads: t.join()
print(json.dumps(counts | {'done': True}), flush=True)
";

/// The echo server.
#[derive(Debug)]
pub struct Echo {
    _process: Running,
}

impl Echo {
    /// Starts it in a pod, on a port of its own, IPv4.
    ///
    /// # Errors
    /// When it does not come up; with what it said.
    pub fn start(bed: &Testbed, pod: &Pod) -> Result<Self> {
        need("python3", "python3-minimal")?;
        let mut command = pod.place.command("python3");
        command.args(["-c", SERVER, &PORT.to_string()]);
        let log = bed.directory().join(format!("checked-server-{}.log", pod.name));
        let process = pod.place.start(command, &log)?;
        eventually(Duration::from_secs(20), "the echo server serves", || {
            Ok(process.log().contains("serves"))
        })
        .with_context(|| process.log())?;
        Ok(Self { _process: process })
    }
}

/// How a client loads an [`Echo`].
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Connections that stay open; each that is lost is opened again.
    pub long: u32,
    /// Connections at a time that exchange one block and close.
    pub short: u32,
    /// Bytes of a block, at most 64 KiB, so that both ends' buffers hold it.
    pub block: u32,
    /// Between two blocks of a connection.
    pub pause: Duration,
    /// Time after which a long connection is closed in order and another one opened; never by default.
    pub life: Option<Duration>,
}

impl Default for Load {
    fn default() -> Self {
        Self { long: 2, short: 1, block: 16 * 1024, pause: Duration::from_millis(5), life: None }
    }
}

/// What a client has seen. Every byte it sent is accounted for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Connections that exchanged at least one block.
    pub opened: u64,
    /// Blocks that came back.
    pub blocks: u64,
    /// Bytes that came back and were compared.
    pub bytes: u64,
    /// Bytes that came back changed, or were missing although the connection ended in order.
    pub corrupted: u64,
    /// Connections that had exchanged a block and then broke.
    pub lost: u64,
    /// Connects that were refused.
    pub refused: u64,
    /// Connections that were accepted, and reset before their first block was back.
    pub reset: u64,
    /// Connections on which nothing moved for a minute.
    pub stalled: u64,
}

impl Seen {
    /// Attempts that came to nothing.
    pub fn failed(&self) -> u64 {
        self.lost + self.refused + self.reset + self.stalled
    }
}

/// A running client.
#[derive(Debug)]
pub struct Checked {
    process: Running,
    stop: PathBuf,
    words: PathBuf,
}

impl Checked {
    /// Starts a client in a pod against the [`Echo`] at an address.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(bed: &Testbed, from: &Pod, to: IpAddr, load: Load) -> Result<Self> {
        let file = |kind: &str| bed.directory().join(format!("checked-{}-{to}.{kind}", from.name));
        let (stop, words) = (file("stop"), file("words"));
        for old in [&stop, &words] {
            let _ = std::fs::remove_file(old);
        }
        let mut command = from.place.command("python3");
        command.args(["-c", CLIENT, &to.to_string(), &PORT.to_string()]).arg(&stop);
        command.args([load.long, load.short, load.block].map(|n| n.to_string()));
        command.arg(load.pause.as_millis().to_string());
        command.arg(load.life.map_or_else(|| "-1".to_owned(), |life| life.as_millis().to_string()));
        command.arg(&words);
        Ok(Self { process: from.place.start(command, &file("log"))?, stop, words })
    }

    /// What it has seen so far.
    ///
    /// # Errors
    /// When it says something else than counts: it has failed then.
    pub fn seen(&self) -> Result<Seen> {
        let log = self.process.log();
        // The last line may be half written.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let Some(last) = whole.lines().last() else { return Ok(Seen::default()) };
        let counts: Value = serde_json::from_str(last).with_context(|| log.clone())?;
        let count = |name: &str| counts[name].as_u64().with_context(|| log.clone());
        Ok(Seen {
            opened: count("opened")?,
            blocks: count("blocks")?,
            bytes: count("bytes")?,
            corrupted: count("corrupted")?,
            lost: count("lost")?,
            refused: count("refused")?,
            reset: count("reset")?,
            stalled: count("stalled")?,
        })
    }

    /// The connections that failed, the last few: when, how, from which port, after how much.
    pub fn words(&self) -> Vec<String> {
        let all = std::fs::read_to_string(&self.words).unwrap_or_default();
        let mut last: Vec<String> = all.lines().rev().take(6).map(str::to_owned).collect();
        last.reverse();
        last
    }

    /// Waits until blocks come back beyond those that have by now, as many as that.
    ///
    /// # Errors
    /// When they do not within half a minute.
    pub fn flows(&self, blocks: u64) -> Result<Seen> {
        let before = self.seen()?.blocks;
        let mut seen = Seen::default();
        eventually(Duration::from_secs(30), "blocks come back", || {
            seen = self.seen()?;
            Ok(seen.blocks >= before + blocks)
        })
        .with_context(|| format!("{seen:?}"))?;
        Ok(seen)
    }

    /// Ends it in order and tells all that it has seen.
    ///
    /// # Errors
    /// When it does not end within a minute and a half, or has failed.
    pub fn finish(mut self) -> Result<Seen> {
        std::fs::write(&self.stop, "")?;
        eventually(Duration::from_secs(90), "the client ends", || Ok(!self.process.is_running()))?;
        let log = self.process.log();
        ensure!(log.contains("\"done\": true"), "the client failed: {log}");
        self.seen()
    }
}

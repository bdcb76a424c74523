//! Programs that count what they do: whoever dials, whoever serves.

use std::collections::BTreeMap;
use std::time::Duration;

use lark_testbed::{Pod, Running, Testbed, eventually};
use serde::Deserialize;

/// Where [`Server`] listens.
pub(super) const PORT: u16 = 7300;
/// Where nobody listens.
pub(super) const NOBODY: u16 = 9;

/// Connections with their bytes, from the client's side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Sum {
    pub(super) connections: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Sum {
    pub(super) fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.sent += other.sent;
        self.received += other.received;
    }

    pub(super) fn of(all: impl IntoIterator<Item = Self>) -> Self {
        let mut sum = Self::default();
        all.into_iter().for_each(|one| sum.add(one));
        sum
    }
}

/// Answers with what it was sent: a letter for how it is to end, seven digits for the length, the bytes. Tells its
/// counts at its end.
const SERVER: &str = r"
import asyncio, json, signal, socket, struct, sys
counts = dict.fromkeys(('connections', 'sent', 'received'), 0)
class Server(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.got = transport, bytearray()
        counts['connections'] += 1
    def data_received(self, data):
        counts['sent'] += len(data)
        self.got += data
        if len(self.got) < 8 or len(self.got) < 8 + int(self.got[1:8]): return
        how = chr(self.got[0])
        if how == 'A':
            linger = struct.pack('ii', 1, 0)
            self.transport.get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return self.transport.abort()
        self.transport.write(bytes(self.got[8:]))
        counts['received'] += len(self.got) - 8
        if how == 'S': self.transport.close()
async def main():
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    for host in '0.0.0.0', '::':
        await loop.create_server(Server, host, int(sys.argv[1]), backlog=4096)
    print('serves', flush=True)
    await over.wait()
    print(json.dumps(counts), flush=True)
asyncio.run(main())
";

/// Makes connections as a plan of letters says, a few at a time, and tells for each letter what it did. C closes after
/// the answer, H before it in its own direction, S lets the server close, R resets, A is reset, Z says nothing, N
/// dials where nobody listens. Arguments: plan, two addresses, port, the port of nobody.
const CLIENT: &str = r"
import itertools, json, os, socket, struct, sys, threading
plan, hosts, port, nobody = json.loads(sys.argv[1]), sys.argv[2:4], int(sys.argv[4]), int(sys.argv[5])
payload = os.urandom(100000)
counts, odd, lock = {}, [], threading.Lock()
def one(number, how):
    # At least a byte, so that whoever resets has been answered.
    size = 100000 if number % 97 == 0 else 1 + number * 37 % 3000
    if how == 'N':
        # The reset may come before connect() has returned.
        try:
            with socket.create_connection((hosts[number % 2], nobody), 60) as s: s.recv(1)
        except ConnectionResetError: return 0, 0
        raise Exception('ended in order')
    s = socket.create_connection((hosts[number % 2], port), 60)
    with s:
        if how == 'Z': return 0, 0
        said = b'%c%07d' % (ord(how), size) + payload[:size]
        s.sendall(said)
        if how == 'H': s.shutdown(socket.SHUT_WR)
        back = bytearray()
        try:
            while len(back) < size or how in 'HSA':
                part = s.recv(65536)
                if not part: break
                back += part
        except ConnectionResetError:
            if how != 'A': raise
            return len(said), len(back)
        if how == 'A': raise Exception('ended in order')
        if back != payload[:size]: raise Exception('other bytes')
        if how == 'R': s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        return len(said), len(back)
# All kinds among each other.
todo = sorted(((i / n, how) for how, n in plan.items() for i in range(n)))
numbers = itertools.count()
def work():
    while True:
        number = next(numbers)
        if number >= len(todo): return
        how = todo[number][1]
        try: sent, received = one(number, how)
        except Exception as e:
            with lock: odd.append(f'{number} {how}: {e!r}')
            continue
        with lock:
            count = counts.setdefault(how, dict.fromkeys(('connections', 'sent', 'received'), 0))
            count['connections'] += 1; count['sent'] += sent; count['received'] += received
threads = [threading.Thread(target=work) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
print(json.dumps({'odd': odd, 'counts': counts}), flush=True)
";

/// A server that counts.
pub(super) struct Server(Running);

impl Server {
    pub(super) fn start(bed: &Testbed, pod: &Pod) -> Self {
        let mut command = pod.place.command("python3");
        command.args(["-c", SERVER, &PORT.to_string()]);
        let log = bed.directory().join(format!("counts-{}.log", pod.name));
        let process = pod.place.start(command, &log).unwrap();
        eventually(Duration::from_secs(20), "it serves", || Ok(process.log().contains("serves")))
            .unwrap_or_else(|e| panic!("{e:#}: {}", process.log()));
        Self(process)
    }

    /// What it has counted, once it is told that all is over.
    pub(super) fn finish(mut self) -> Sum {
        self.0.stop().unwrap();
        let log = self.0.log();
        serde_json::from_str(log.lines().last().unwrap()).unwrap_or_else(|e| panic!("{e}: {log}"))
    }
}

/// A client under way.
pub(super) struct Client(Running);

#[derive(Deserialize)]
struct Done {
    odd: Vec<String>,
    counts: BTreeMap<char, Sum>,
}

impl Client {
    /// Dials that pod so often, for each letter.
    pub(super) fn start(bed: &Testbed, from: &Pod, to: &Pod, plan: &[(char, u64)]) -> Self {
        let plan: BTreeMap<String, u64> = plan.iter().map(|(how, n)| (how.to_string(), *n)).collect();
        let mut command = from.place.command("python3");
        command.args(["-c", CLIENT, &serde_json::to_string(&plan).unwrap()]);
        command.args([to.ip.to_string(), to.ip6.to_string(), PORT.to_string(), NOBODY.to_string()]);
        let log = bed.directory().join(format!("client-{}-{}.log", from.name, to.name));
        Self(from.place.start(command, &log).unwrap())
    }

    pub(super) fn finish(mut self) -> BTreeMap<char, Sum> {
        let said = ended(&mut self.0);
        let done: Done = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
        assert!(done.odd.is_empty(), "{} connections failed: {:#?}", done.odd.len(), done.odd);
        done.counts
    }
}

/// curl under way, with a connection of its own for each request.
pub(super) struct Curl(Running);

impl Curl {
    pub(super) fn start(bed: &Testbed, from: &Pod, to: &Pod, path: &str, times: u64) -> Self {
        let mut command = from.place.command("curl");
        command.args(["-sS", "-o", "/dev/null", "-H", "Connection: close", "-w"]);
        command.arg("%{http_code} %{size_request} %{size_header} %{size_download}\\n");
        command.arg(format!("http://{}:8080/{path}?[1-{times}]", to.ip));
        let log = bed.directory().join(format!("curl-{}-{}-{path}.log", from.name, to.name));
        Self(from.place.start(command, &log).unwrap())
    }

    /// By status: requests, each of which was a connection, and their bytes.
    pub(super) fn finish(mut self) -> BTreeMap<u16, Sum> {
        let mut all: BTreeMap<u16, Sum> = BTreeMap::new();
        for line in ended(&mut self.0).lines() {
            let words: Vec<u64> = line
                .split(' ')
                .map(|word| word.parse().unwrap_or_else(|_| panic!("curl said {line}")))
                .collect();
            let [status, sent, head, body] = words[..] else { panic!("curl said {line}") };
            let one = Sum { connections: 1, sent, received: head + body };
            all.entry(u16::try_from(status).unwrap()).or_default().add(one);
        }
        all
    }
}

/// What a program has said, once it has ended by itself.
pub(super) fn ended(process: &mut Running) -> String {
    eventually(Duration::from_secs(240), "the program ends", || Ok(!process.is_running()))
        .unwrap_or_else(|e| panic!("{e:#}: {}", process.log()));
    process.log()
}

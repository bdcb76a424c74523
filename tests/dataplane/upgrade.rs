//! Agents that take over from one another, and agents that are told to stop: what is carried is unharmed.

use std::time::Duration;

use lark_testbed::{Agent, Load, Record, Running, eventually};

use crate::house::House;

/// Answers each line with the same line.
const ECHO: &str = r"
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile: self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 1024
Server(('0.0.0.0', 7777), Echo).serve_forever()
";

/// New connections, one after the other, until its standard input's file says stop; each asks and is
/// answered. Says how many went well, and each that did not.
pub(crate) const LOOP: &str = r"
import os, socket, sys
good = 0
while not os.path.exists(sys.argv[2]):
    try:
        s = socket.create_connection((sys.argv[1], 7777), 20)
        s.sendall(b'hello\n')
        assert s.recv(100) == b'hello\n', 'another answer'
        s.close()
        good += 1
    except Exception as error:
        print('bad', repr(error), flush=True)
print('good', good, flush=True)
";

/// One connection that asks ten times a second for the given number of seconds.
const LONG: &str = r"
import socket, sys, time
s = socket.create_connection((sys.argv[1], 7777), 20)
for n in range(10 * int(sys.argv[2])):
    s.sendall(b'%d\n' % n)
    assert s.recv(100) == b'%d\n' % n
    if n == 0: print('open', flush=True)
    time.sleep(0.1)
s.shutdown(socket.SHUT_WR)
assert s.recv(100) == b''
print('whole', flush=True)
";

pub(crate) fn python(house: &House, name: &str, script: &str, arguments: &[&str]) -> Running {
    let mut command = house.client.place.command("python3");
    command.args(["-c", script]).args(arguments);
    house.client.place.start(command, &house.bed.directory().join(name)).unwrap()
}

pub(crate) fn echo(house: &House) -> Running {
    let mut command = house.server.place.command("python3");
    command.args(["-c", ECHO]);
    let server = house.server.place.start(command, &house.bed.directory().join("echo.log")).unwrap();
    eventually(Duration::from_secs(20), "the server listens", || {
        let probe = house.server.place.output("sh", &["-c", "ss -tln | grep -q :7777"])?;
        Ok(probe.status.success())
    })
    .unwrap();
    server
}

#[test]
fn two_hundred_upgrades_refuse_and_reset_nothing() {
    let mut record = Record::of("agent upgraded in place under new connections at full rate").unwrap();
    let mut house = House::captured();
    let _server = echo(&house);
    let (ip, stop) = (house.server.ip.to_string(), house.bed.directory().join("stop"));
    let arguments = [ip.as_str(), stop.to_str().unwrap()];
    let mut clients: Vec<Running> =
        (0..2).map(|n| python(&house, &format!("loop-{n}.log"), LOOP, &arguments)).collect();
    let bad = |clients: &[Running]| -> String {
        clients
            .iter()
            .map(|c| c.log().lines().filter(|l| !l.starts_with("good")).collect::<String>())
            .collect()
    };
    for number in 0..200 {
        let agent = if number % 2 == 0 { &mut house.one } else { &mut house.two };
        agent.upgrade(&house.bed, &house.controller, &house.mesh).unwrap();
        record.injected(1);
        assert_eq!(bad(&clients), "", "at upgrade {number}: {}", house.logs());
    }
    std::fs::write(&stop, "").unwrap();
    eventually(Duration::from_secs(30), "the clients end", || {
        Ok(clients.iter_mut().all(|c| !c.is_running()))
    })
    .unwrap();
    let logs: String = clients.iter().map(Running::log).collect();
    assert!(!logs.contains("bad"), "{logs}");
    let good: u64 = logs.lines().map(|l| l["good ".len()..].parse::<u64>().unwrap()).sum();
    assert!(good > 20_000, "the loop was not at full rate: {good}");
    for agent in [&house.one, &house.two] {
        let check = agent.lark(&["check"]).unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        let connections = agent.json("connections").unwrap();
        let plaintext =
            connections.as_array().unwrap().iter().filter(|c| c["secured"] == "plaintext").count();
        assert_eq!(plaintext, 0, "{connections:#}");
    }
    let own = |agent: &Agent| std::fs::read_dir(house.bed.pins(&agent.node).join("agent")).unwrap().count();
    assert_eq!((own(&house.one), own(&house.two)), (1, 1), "programs of earlier agents stay attached");
    record.compared(usize::try_from(good).unwrap() * "hello\n".len());
    record.write(format!("0 of {good} connections refused or reset")).unwrap();
}

/// Connections that stay open.
const HELD: Load = Load { long: 3, short: 0, block: 16 * 1024, pause: Duration::from_millis(5), life: None };

#[test]
fn a_stream_shorter_than_the_drain_is_unharmed_by_upgrades_of_both_agents() {
    let mut record = Record::of("agent upgraded in place under open streams").unwrap();
    let mut house = House::captured();
    let _echo = house.echo();
    for second in [false, true] {
        let traffic = house.traffic(HELD);
        let agent = if second { &mut house.two } else { &mut house.one };
        let process = u64::from(agent.process.pid());
        let mut old = agent.succeed(&house.bed, &house.controller, &house.mesh, &[]).unwrap();
        record.injected(1);
        // What the old one still holds is said: in its log, and by the new one.
        assert!(old.log().contains("another agent has taken over"), "{}", old.log());
        eventually(Duration::from_secs(10), "the new agent tells what the old one holds", || {
            let draining = agent.json("status")?["draining"].clone();
            let told = draining[0]["process"] == process && draining[0]["connections_open"] == 3;
            anyhow::ensure!(told && draining[0]["ends_in_seconds"].as_u64() <= Some(20), "{draining:#}");
            Ok(true)
        })
        .unwrap();
        let connections = agent.table(&["connections"]).unwrap();
        let note = format!("carried by the agent before this one, process {process}");
        assert_eq!(connections.matches(&note).count(), 3, "{connections}");
        let status = agent.table(&["status"]).unwrap();
        assert!(
            status.contains(&format!("process {process}")) && status.contains("3 connections"),
            "{status}"
        );
        eventually(Duration::from_secs(10), "the old one says so too", || {
            Ok(old.log().matches("may finish").count() == 4)
        })
        .unwrap_or_else(|e| panic!("{e:#}\n{}", old.log()));
        traffic.flows(20).unwrap();
        let seen = traffic.finish().unwrap();
        assert_eq!((seen.failed(), seen.opened), (0, 3), "{seen:?}");
        record.traffic(seen);
        eventually(Duration::from_secs(30), "the old one ends", || Ok(!old.is_running())).unwrap();
        assert!(old.log().contains("all connections have finished"), "{}", old.log());
        eventually(Duration::from_secs(10), "nothing drains any more", || {
            Ok(agent.json("status")?["draining"].as_array().is_some_and(Vec::is_empty))
        })
        .unwrap();
    }
    record
        .write("all went on to their end; listed by `lark status` and `lark connections` meanwhile")
        .unwrap();
}

#[test]
fn a_stream_longer_than_the_drain_is_reset_and_named() {
    let mut record = Record::of("the drain is over").unwrap();
    let mut house = House::captured_with(&["--drain", "1"]);
    let _echo = house.echo();
    let traffic = house.traffic(HELD);
    let mut old = house.one.succeed(&house.bed, &house.controller, &house.mesh, &[]).unwrap();
    record.injected(1);
    eventually(Duration::from_secs(20), "the old one ends", || Ok(!old.is_running())).unwrap();
    let log = old.log();
    assert!(log.contains("the agent ends and resets what is still open open=3"), "{log}");
    let named = log.lines().filter(|l| l.contains("still open, and reset") && l.contains("shop/server"));
    assert_eq!(named.count(), 3, "{log}");
    // They are opened again, through the new agent.
    traffic.flows(20).unwrap();
    let seen = traffic.finish().unwrap();
    assert_eq!((seen.lost, seen.refused, seen.reset, seen.stalled), (3, 0, 0, 0), "{seen:?}");
    record.traffic(seen);
    record.write("3 of 3 reset and named; none ended in order, new ones not refused").unwrap();
}

#[test]
fn an_agent_that_is_told_to_stop_lets_streams_finish() {
    let mut record = Record::of("agent told to stop (SIGTERM)").unwrap();
    for second in [false, true] {
        let mut house = House::captured();
        let _server = echo(&house);
        let mut long = python(&house, "long.log", LONG, &[&house.server.ip.to_string(), "3"]);
        eventually(Duration::from_secs(20), "it is open", || Ok(long.log().contains("open"))).unwrap();
        let agent = if second { &mut house.two } else { &mut house.one };
        agent.process.signal("TERM");
        record.injected(1);
        eventually(Duration::from_secs(10), "it is asked what it still holds", || {
            let status = agent.json("status")?;
            Ok(status["ready"] == false && status["draining"][0]["connections_open"] == 1)
        })
        .unwrap();
        eventually(Duration::from_secs(30), "the stream ends", || Ok(!long.is_running())).unwrap();
        assert!(long.log().contains("whole"), "{}", long.log());
        record.compared((0..30).map(|n: u32| n.to_string().len() + 1).sum());
        eventually(Duration::from_secs(10), "the agent ends", || Ok(!agent.process.is_running())).unwrap();
        assert!(agent.process.log().contains("all connections have finished"), "{}", agent.process.log());
        assert!(!agent.socket().exists());
    }
    record.write("2 of 2 streams whole; `lark status` said what was open; then the agent ended").unwrap();
}

#[test]
fn another_agent_may_start_while_one_still_drains() {
    let mut house = House::captured();
    let _echo = house.echo();
    let traffic = house.traffic(HELD);
    house.one.process.signal("TERM");
    eventually(Duration::from_secs(10), "it drains", || {
        Ok(house.one.json("status")?["draining"][0]["connections_open"] == 3)
    })
    .unwrap();
    let old = Agent::start(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    let mut old = std::mem::replace(&mut house.one, old).process;
    house.one.wait_captured(2).unwrap();
    traffic.flows(20).unwrap();
    let seen = traffic.finish().unwrap();
    assert_eq!((seen.failed(), seen.opened), (0, 3), "{seen:?}");
    eventually(Duration::from_secs(30), "the old one ends", || Ok(!old.is_running())).unwrap();
    // It took nothing of the new one's along.
    House::checks(&house.one).unwrap();
    let again = house.traffic(HELD).finish().unwrap();
    assert_eq!(again.failed(), 0, "{again:?}");
}

#[test]
fn a_successor_that_dies_half_way_leaves_the_old_agent_in_charge() {
    let mut record = Record::of("successor killed half-way").unwrap();
    let house = House::captured();
    let _echo = house.echo();
    let traffic = house.traffic(Load::default());
    for wait in [0, 20, 60, 120] {
        let mut command = Agent::command(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
        command.arg("--take-over");
        let log = house.bed.directory().join("successor.log");
        let mut successor = house.nodes.0.place.start(command, &log).unwrap();
        eventually(Duration::from_secs(20), "it begins", || Ok(successor.log().contains("taking over")))
            .unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        successor.kill();
        if house.one.process.log().contains("has taken over") {
            // It was quick enough to have done it all before it was killed.
            break;
        }
        record.injected(1);
        traffic.flows(20).unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
        House::checks(&house.one).unwrap();
        assert!(house.one.table(&["edges"]).unwrap().contains("√ mTLS"));
    }
    let seen = traffic.finish().unwrap();
    // A connect that was pointed at the successor's listener died with it; what the old one carries goes on.
    assert!(seen.lost <= 1, "{seen:?}");
    let failed = seen.failed();
    record.traffic(seen);
    record
        .write(format!("the old agent goes on each time; {failed} connects met the one that died"))
        .unwrap();
}

#[test]
fn another_nodes_agent_may_not_take_over() {
    let mut record = Record::of("a successor for another node").unwrap();
    let house = House::captured();
    let mut command = Agent::command(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    let output = command.args(["--take-over", "--node", "two"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("cannot take over: the agent that runs here has node one, this one two"), "{said}");
    House::checks(&house.one).unwrap();
    record.injected(1);
    record.write("refused by a sentence that names both nodes").unwrap();
}

/// Asks on so many connections, says that it says no more, and listens once the first file is there.
const LATE: &str = r"
import os, socket, sys, time
host, count, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
all = [socket.create_connection((host, 7070), 20) for _ in range(count)]
for s in all:
    s.settimeout(60)
    s.sendall(b'ask')
    s.shutdown(socket.SHUT_WR)
while not os.path.exists(file): time.sleep(0.05)
for s in all:
    got = 0
    try:
        while (b := s.recv(65536)): got += len(b)
        print('got', got, flush=True)
    except OSError as e: print('broke', got, e, flush=True)
print('done', flush=True)
";

/// Answers with so many bytes and closes, once nothing more is asked and the file is there.
const ANSWERS: &str = r"
import os, socket, sys, threading, time
listener = socket.create_server(('', 7070), backlog=100)
def answer(s):
    while s.recv(100): pass
    print('asked', flush=True)
    while not os.path.exists(sys.argv[2]): time.sleep(0.05)
    s.sendall(b'x' * int(sys.argv[1]))
    s.close()
print('listens', flush=True)
while True: threading.Thread(target=answer, args=(listener.accept()[0],)).start()
";

#[test]
fn what_an_agent_has_still_to_send_when_its_last_connection_is_over_arrives() {
    let house = House::captured_with(&["--keepalive", "600", "--workers", "1"]);
    let file = |name: &str| house.bed.directory().join(name);
    let (answer, listen) = (file("answer"), file("listen"));
    let mut answers = house.server.place.command("python3");
    answers.args(["-c", ANSWERS, "200000", answer.to_str().unwrap()]);
    let answers = house.server.place.start(answers, &file("answers.log")).unwrap();
    eventually(Duration::from_secs(20), "it listens", || Ok(answers.log().contains("listens"))).unwrap();
    let host = house.server.ip.to_string();
    let late = python(&house, "late.log", LATE, &[&host, "8", listen.to_str().unwrap()]);
    let asked = || Ok(answers.log().matches("asked").count() == 8);
    eventually(Duration::from_secs(20), "all have asked", asked).unwrap();
    // From here on the tunnel's other end takes what the kernel holds and no more.
    house.one.process.signal("STOP");
    std::fs::write(&answer, "").unwrap();
    let over = || Ok(house.two.json("status")?["connections_open"] == 0);
    eventually(Duration::from_secs(20), "what is left lies in the agent", over).unwrap();
    house.two.process.signal("TERM");
    std::thread::sleep(Duration::from_secs(1));
    house.one.process.signal("CONT");
    std::fs::write(&listen, "").unwrap();
    eventually(Duration::from_secs(60), "it has heard", || Ok(late.log().contains("done"))).unwrap();
    assert_eq!(late.log().matches("got 200000").count(), 8, "{}\n{}", late.log(), house.logs());
}

//! Agents that take over from one another, and agents that are told to stop: what is carried is unharmed.

use std::time::Duration;

use lark_testbed::{Agent, Nginx, Running, eventually};

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
const LOOP: &str = r"
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

fn python(house: &House, name: &str, script: &str, arguments: &[&str]) -> Running {
    let mut command = house.client.place.command("python3");
    command.args(["-c", script]).args(arguments);
    house.client.place.start(command, &house.bed.directory().join(name)).unwrap()
}

fn echo(house: &House) -> Running {
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
}

#[test]
fn a_stream_shorter_than_the_drain_is_unharmed_by_upgrades_of_both_agents() {
    let mut house = House::captured();
    let _server = echo(&house);
    let ip = house.server.ip.to_string();
    let mut long = python(&house, "long.log", LONG, &[&ip, "4"]);
    eventually(Duration::from_secs(20), "it is open", || Ok(long.log().contains("open"))).unwrap();
    house.one.upgrade(&house.bed, &house.controller, &house.mesh).unwrap();
    let mut second = python(&house, "second.log", LONG, &[&ip, "4"]);
    eventually(Duration::from_secs(20), "it is open", || Ok(second.log().contains("open"))).unwrap();
    house.two.upgrade(&house.bed, &house.controller, &house.mesh).unwrap();
    for client in [&mut long, &mut second] {
        eventually(Duration::from_secs(30), "it ends", || Ok(!client.is_running())).unwrap();
        assert!(client.log().contains("whole"), "{}", client.log());
    }
}

#[test]
fn an_agent_that_is_told_to_stop_lets_streams_finish() {
    for second in [false, true] {
        let mut house = House::captured();
        let _server = echo(&house);
        let mut long = python(&house, "long.log", LONG, &[&house.server.ip.to_string(), "3"]);
        eventually(Duration::from_secs(20), "it is open", || Ok(long.log().contains("open"))).unwrap();
        let agent = if second { &mut house.two } else { &mut house.one };
        agent.process.signal("TERM");
        eventually(Duration::from_secs(30), "the stream ends", || Ok(!long.is_running())).unwrap();
        assert!(long.log().contains("whole"), "{}", long.log());
        eventually(Duration::from_secs(10), "the agent ends", || Ok(!agent.process.is_running())).unwrap();
        assert!(agent.process.log().contains("all connections have finished"), "{}", agent.process.log());
    }
}

#[test]
fn a_successor_that_dies_half_way_leaves_the_old_agent_in_charge() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let url = format!("http://{}:8080/who", house.server.ip);
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
            return;
        }
        eventually(Duration::from_secs(10), "the old agent goes on", || {
            Ok(house.client.place.output("curl", &["-sf", "--max-time", "5", &url])?.status.success())
        })
        .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
        let check = house.one.lark(&["check"]).unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    }
    assert!(house.one.table(&["edges"]).unwrap().contains("√ mTLS"));
}

#[test]
fn another_nodes_agent_may_not_take_over() {
    let house = House::captured();
    let mut command = Agent::command(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    let output = command.args(["--take-over", "--node", "two"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("cannot take over: the agent that runs here has node one, this one two"), "{said}");
    let check = house.one.lark(&["check"]).unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

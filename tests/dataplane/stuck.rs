//! Agents that do not turn: stopped as a whole, or a thread of theirs.

use std::time::Duration;

use lark_core::constants::LABEL_CAPTURE;
use lark_testbed::{Agent, Load, Nginx, Record, Running, eventually};

use crate::house::{House, fate, metric};
use crate::upgrade::echo;
use crate::workers::hold;

/// Stops one thread of a process, until this is killed: then it runs again. Arguments: process, thread's name.
const STOP_THREAD: &str = r"
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
pid, name = sys.argv[1:]
tids = [t for t in os.listdir(f'/proc/{pid}/task') if open(f'/proc/{pid}/task/{t}/comm').read().strip() == name]
assert len(tids) == 1, tids
libc.ptrace.argtypes = [ctypes.c_long] * 4
assert libc.ptrace(16, int(tids[0]), 0, 0) == 0, ctypes.get_errno()  # PTRACE_ATTACH
os.waitpid(int(tids[0]), 0x40000000)  # __WALL
print('stopped', flush=True)
time.sleep(600)
";

/// Stops that thread of an agent, until the returned program is killed.
fn stop_thread(house: &House, agent: &Agent, name: &str) -> Running {
    let mut stop = house.nodes.0.place.command("python3");
    stop.args(["-c", STOP_THREAD, &agent.process.pid().to_string(), name]);
    let stop = house.nodes.0.place.start(stop, &house.bed.directory().join("stop.log")).unwrap();
    eventually(Duration::from_secs(20), "the thread is stopped", || Ok(stop.log().contains("stopped")))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", stop.log()));
    stop
}

fn untouched(house: &House) -> u64 {
    house.one.kernel_counter("agent_down_untouched").unwrap()
}

/// What whoever watches over the agent is told.
fn health(house: &House) -> (u16, String) {
    let url = format!("http://{}:15020/healthz", house.nodes.0.ip);
    let asked = ["-sS", "--max-time", "10", "-w", "%{http_code}", &url];
    let answer = house.nodes.0.place.run("curl", &asked).unwrap();
    let (said, code) = answer.split_once('\n').unwrap();
    (code.parse().unwrap(), said.to_owned())
}

#[test]
fn a_stopped_agent_counts_as_dead_and_what_it_carries_goes_on_when_it_does() {
    let mut record = Record::of("own agent stopped (SIGSTOP) and continued").unwrap();
    // The peer must not take it for gone on a busy machine.
    let house = House::captured_with(&["--keepalive", "600"]);
    let _echo = house.echo();
    let traffic = house.traffic(Load { short: 0, ..Load::default() });
    house.one.process.signal("STOP");
    record.injected(1);
    let nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let url = format!("http://{}:8080/who", house.server.ip);
    // In the first two seconds connects are accepted by the kernel, and answered by nobody.
    eventually(Duration::from_secs(30), "connects are left alone", || {
        Ok(house.client.place.output("curl", &["-sf", "--max-time", "2", &url])?.status.success())
    })
    .unwrap();
    nginx.logged("/who").unwrap();
    house.one.process.signal("CONT");
    traffic.flows(20).unwrap();
    let left_alone = untouched(&house);
    assert!(left_alone > 0);
    let seen = traffic.finish().unwrap();
    assert_eq!(seen.failed(), 0, "{seen:?}");
    record.traffic(seen);
    record.write(format!("{left_alone} left alone and counted; open connections went on")).unwrap();
}

#[test]
fn a_stuck_worker_counts_as_a_dead_agent_and_is_said() {
    let mut record = Record::of("a worker thread of the own agent stuck").unwrap();
    let house = House::captured_with(&["--keepalive", "600"]);
    let _echo = house.echo();
    let traffic = house.traffic(Load { short: 0, ..Load::default() });
    let mut stop = stop_thread(&house, &house.one, "lark-worker-0");
    record.injected(1);
    eventually(Duration::from_secs(20), "connects are left alone", || {
        house
            .client
            .place
            .output("curl", &["-s", "--max-time", "3", &format!("http://{}:9", house.server.ip)])?;
        Ok(untouched(&house) > 0)
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    let left_alone = untouched(&house);
    let log = house.one.process.log();
    assert!(log.contains("does not turn runtime=\"worker-0\""), "{log}");
    assert_eq!(health(&house), (503, "worker-0 does not turn".to_owned()));
    stop.kill();
    eventually(Duration::from_secs(20), "it turns again", || {
        Ok(house.one.process.log().contains("turns again runtime=\"worker-0\""))
    })
    .unwrap();
    assert_eq!(health(&house), (200, "ok".to_owned()));
    traffic.flows(20).unwrap();
    let before = untouched(&house);
    for _ in 0..2 {
        assert_eq!(fate(&house.client.place, house.server.ip, 9, None), "reset");
    }
    assert_eq!(untouched(&house), before);
    let seen = traffic.finish().unwrap();
    assert_eq!(seen.failed(), 0, "{seen:?}");
    record.traffic(seen);
    record
        .write(format!("said as worker-0; {left_alone} left alone and counted; open connections went on"))
        .unwrap();
}

/// Which thread of a process has that name.
fn thread(agent: &Agent, name: &str) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", agent.process.pid())).unwrap();
    let mut tasks = tasks.map(|task| task.unwrap().path());
    let of = |task: &std::path::Path| std::fs::read_to_string(task.join("comm")).unwrap_or_default();
    let task = tasks.find(|task| of(task).trim() == name).unwrap();
    task.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_worker_that_ends_is_the_end_of_its_agent() {
    let mut record = Record::of("a worker thread of the own agent ends").unwrap();
    let mut house = House::new();
    let nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let url = format!("http://{}:8080/ended", house.server.ip);
    house.mesh.label(&house.neighbour, LABEL_CAPTURE, "disabled").unwrap();
    house.mesh.capture(true).unwrap();
    house.one.wait_captured(1).unwrap();
    house.two.wait_captured(1).unwrap();
    // What it is told to listen on next cannot be watched, as when the user's share of watches is used up.
    let mut strace = house.nodes.0.place.command("strace");
    strace.args(["-e", "trace=epoll_ctl", "-e", "inject=epoll_ctl:error=ENOSPC"]);
    strace.args(["-p", &thread(&house.one, "lark-worker-0")]);
    let strace = house.nodes.0.place.start(strace, &house.bed.directory().join("strace.log")).unwrap();
    eventually(Duration::from_secs(20), "the worker is traced", || Ok(strace.log().contains("attached")))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", strace.log()));
    house.mesh.label(&house.neighbour, LABEL_CAPTURE, "enabled").unwrap();
    record.injected(1);
    eventually(Duration::from_secs(20), "the agent ends", || Ok(!house.one.process.is_running()))
        .unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", strace.log(), house.logs()));
    // The kernel knows at once, and not when the heartbeat is stale.
    house.curl(&url);
    nginx.logged("/ended").unwrap();
    let log = house.one.process.log();
    let cause = "connections of pod shop/neighbour cannot be accepted: No space left on device";
    assert!(log.contains(cause) && log.contains("lark: worker-0 ended"), "{log}");
    house.one = Agent::start(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    house.one.wait_captured(2).unwrap();
    let left_alone = untouched(&house);
    assert!(left_alone > 0);
    house.curl(&url);
    assert_eq!(untouched(&house), left_alone);
    assert!(house.one.table(&["edges"]).unwrap().contains("√ mTLS"));
    record
        .write(format!("said as worker-0; {left_alone} left alone and counted; mTLS again by the next agent"))
        .unwrap();
}

#[test]
fn a_stuck_control_runtime_is_said_and_carries_on() {
    let mut record = Record::of("the control thread of the own agent stuck").unwrap();
    let house = House::captured();
    let _echo = house.echo();
    let traffic = house.traffic(Load::default());
    let before = (traffic.seen().unwrap(), untouched(&house));
    let mut stop = stop_thread(&house, &house.one, "lark");
    record.injected(1);
    // Nobody answers on the admin socket meanwhile: the log is the heartbeat thread's.
    eventually(Duration::from_secs(20), "it is said", || {
        Ok(house.one.process.log().contains("does not turn runtime=\"control\""))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    let seen = traffic.flows(50).unwrap();
    assert!(seen.opened > before.0.opened + 3, "no new connections: {seen:?}");
    stop.kill();
    eventually(Duration::from_secs(20), "it turns again", || {
        Ok(house.one.process.log().contains("turns again runtime=\"control\""))
    })
    .unwrap();
    assert_eq!(untouched(&house), before.1);
    let seen = traffic.finish().unwrap();
    assert_eq!(seen.failed(), 0, "{seen:?}");
    record.traffic(seen);
    record.write("said as control; open and new connections as before").unwrap();
}

#[test]
fn a_stuck_worker_is_given_no_tunnel_that_another_has_accepted() {
    let house = House::captured_with(&["--workers", "4", "--keepalive", "600"]);
    let _echo = echo(&house);
    let stop = stop_thread(&house, &house.two, "lark-worker-0");
    eventually(Duration::from_secs(20), "it is seen to be stuck", || {
        Ok(house.two.process.log().contains("does not turn"))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    // Every worker of the dialling agent gets one, and opens a tunnel.
    let held = hold(&house, 4);
    let of = |worker| metric(&house, &format!("lark_tunnel_accepted{{worker=\"{worker}\"}}"));
    let tunnels = [0, 1, 2, 3].map(of);
    assert_eq!((tunnels[0], tunnels.iter().sum()), (0, 4), "{tunnels:?}");
    drop((held, stop));
}

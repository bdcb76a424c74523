//! What pods of a cluster go through: they come and go, are started again, get other sandboxes and addresses, and
//! their node with them.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use lark_apiserver::objects;
use lark_testbed::{Echo, Mesh, Nginx, Place, Pod, Wire, eventually};
use serde_json::{Value, json};

use crate::held::{captures, held, metric, state};
use crate::node::{Cluster, Layout, agent, uid};
use crate::world::LIMIT;

/// Another container of a pod.
fn container(pod: &Pod, name: &str) -> Place {
    let cgroup = pod.place.cgroup.with_file_name(format!("cri-containerd-{name}.scope"));
    std::fs::create_dir(&cgroup).unwrap();
    Place { cgroup, netns: pod.place.netns.clone() }
}

/// Ends all processes in a cgroup, and it and those above it that are empty then, up to the bed's own.
fn remove(cgroup: &Path) {
    std::fs::write(cgroup.join("cgroup.kill"), "1").unwrap();
    eventually(LIMIT, "a cgroup goes", || Ok(std::fs::remove_dir(cgroup).is_ok())).unwrap();
}

#[test]
fn a_container_that_is_started_again_is_captured_with_its_pod_from_its_first_connection() {
    let mut cluster = Cluster::new(Some("enabled"));
    let (client, _) = cluster.pod(0, "client", 1, Layout::SystemdContainerd, "burstable");
    let (server, _) = cluster.pod(1, "server", 2, Layout::SystemdContainerd, "");
    cluster.captured([1, 1]);
    let url = format!("http://{}:8080/", server.ip);
    for turn in 0..3 {
        // Both containers are others each time, beside what holds the sandboxes.
        let mut web = server.clone();
        web.place = container(&server, &format!("web{turn}"));
        let nginx = Nginx::start(&cluster.bed, &web).unwrap();
        let app = container(&client, &format!("app{turn}"));
        let wire = Wire::listen(&cluster.bed).unwrap();
        let answer = app.run("curl", &["-sS", "--max-time", "20", &url]);
        assert_eq!(answer.unwrap_or_else(|e| panic!("{e:#}\n{}", cluster.logs())), "canary-of-lark\n");
        assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
        drop(nginx);
        [&web.place, &app].into_iter().for_each(|place| remove(&place.cgroup));
    }
    cluster.captured([1, 1]);
    for agent in &cluster.agents {
        assert_eq!(captures(agent).into_values().collect::<Vec<_>>(), [1], "{}", cluster.logs());
    }
}

#[test]
fn a_label_of_a_pod_itself_releases_it_alone_and_takes_it_back() {
    let mut cluster = Cluster::new(Some("enabled"));
    let (client, object) = cluster.pod(0, "client", 1, Layout::CgroupfsContainerd, "");
    cluster.pod(0, "other", 2, Layout::CgroupfsContainerd, "");
    let (server, _) = cluster.pod(1, "server", 3, Layout::CgroupfsContainerd, "");
    let _nginx = Nginx::start(&cluster.bed, &server).unwrap();
    cluster.captured([2, 1]);
    for _ in 0..2 {
        let mut off = object.clone();
        off["metadata"]["labels"]["lark.mesh/capture"] = json!("disabled");
        off["metadata"]["resourceVersion"] = json!("");
        cluster.server.put(off.clone());
        cluster.captured([1, 1]);
        let wire = Wire::listen(&cluster.bed).unwrap();
        assert_eq!(cluster.curl(&client, &server), "canary-of-lark\n");
        assert!(wire.count("canary-of-lark").unwrap() > 0);
        let mut on = object.clone();
        on["metadata"]["resourceVersion"] = json!("");
        cluster.server.put(on);
        cluster.captured([2, 1]);
        let wire = Wire::listen(&cluster.bed).unwrap();
        assert_eq!(cluster.curl(&client, &server), "canary-of-lark\n");
        assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    }
}

/// Pods that the API tells before they are there.
const EARLY: u32 = 20;

#[test]
fn a_pod_that_the_api_told_before_is_captured_as_soon_as_it_is_there() {
    let mut cluster = Cluster::new(Some("enabled"));
    let layouts = [Layout::SystemdContainerd, Layout::CgroupfsCrio];
    // The first one shows where pods are.
    cluster.pod(0, "first", 1, layouts[0], "burstable");
    cluster.pod(0, "second", 2, layouts[1], "burstable");
    cluster.captured([2, 0]);
    let node = cluster.nodes[0].clone();
    let told: Vec<Pod> = (0..EARLY)
        .map(|n| {
            let pod = cluster.bed.pod(&node, &format!("early{n}")).unwrap();
            cluster.tell(&pod, 10 + n);
            pod
        })
        .collect();
    let waits = || Ok(state(&cluster.agents[0], &told[told.len() - 1].name).contains("has made no cgroup"));
    eventually(LIMIT, "the last one is known", waits).unwrap();
    let buckets = |cluster: &Cluster| {
        ["0.1", "+Inf"].map(|le| {
            metric(&cluster.agents[0], &format!("lark_capture_delay_seconds_bucket{{le=\"{le}\"}}"))
        })
    };
    let before = buckets(&cluster);
    for (n, mut pod) in (0..).zip(told) {
        cluster.settle(&mut pod, 10 + n, layouts[n as usize % 2], "burstable");
        cluster.captured([3 + u64::from(n), 0]);
    }
    let after = buckets(&cluster);
    let [soon, all] = [after[0] - before[0], after[1] - before[1]];
    // A look twice a second has a fifth of them by then; a machine that is busy with other tests may be late.
    assert!(soon >= 0.6 * all && all == f64::from(EARLY), "{soon} of {all}\n{}", cluster.logs());
    for reason in ["watch_overflow", "watch_exhausted", "watch_refused"] {
        let sample = format!("lark_capture_unwatched_total{{reason=\"{reason}\"}}");
        assert_eq!(metric(&cluster.agents[0], &sample), 0.0, "{reason}");
    }
}

#[test]
fn a_strict_pod_has_its_hooks_before_its_first_process() {
    let mut cluster = Cluster::new(Some("enabled"));
    let mut namespace = objects::namespace("shop", Some("enabled"));
    namespace["metadata"]["labels"]["lark.mesh/mtls"] = json!("strict");
    cluster.server.put(namespace);
    let (server, _) = cluster.pod(1, "server", 1, Layout::SystemdContainerd, "");
    let _nginx = Nginx::start(&cluster.bed, &server).unwrap();
    cluster.captured([0, 1]);
    let node = cluster.nodes[0].clone();
    let mut client = cluster.bed.pod(&node, "client").unwrap();
    cluster.tell(&client, 2);
    let agent = &cluster.agents[0];
    eventually(LIMIT, "it is known", || Ok(state(agent, "client").contains("has made no cgroup"))).unwrap();
    // The kubelet makes the pod's cgroup, and nothing is in it.
    client.place.cgroup = cluster.place(&client, 2, Layout::SystemdContainerd, "burstable");
    let links = || agent.json("bpf").unwrap()["links"].to_string().contains(&uid(2));
    eventually(LIMIT, "its hooks are there", || Ok(links()))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", cluster.logs()));
    let waits = || Ok(state(agent, "client").contains("no process of it runs"));
    eventually(LIMIT, "it waits for a process", waits)
        .unwrap_or_else(|e| panic!("{e:#}\n{}", cluster.logs()));
    // So its first one is in the mesh or refused, whenever it comes, and never in plaintext.
    let wire = Wire::listen(&cluster.bed).unwrap();
    let url = format!("http://{}:8080/", server.ip);
    let _first = client.place.run("curl", &["-sS", "--max-time", "20", &url]);
    cluster.pause(&client);
    cluster.answers_by_mtls(&client, &server);
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
}

#[test]
fn a_node_that_was_reset_leads_nobody_by_what_was_so_before_and_captures_its_pods_anew() {
    let mut cluster = Cluster::new(Some("enabled"));
    let (client, _) = cluster.pod(0, "client", 1, Layout::SystemdContainerd, "");
    let (web, _) = cluster.pod(1, "web", 2, Layout::SystemdContainerd, "burstable");
    let (db, _) = cluster.pod(1, "db", 3, Layout::SystemdContainerd, "burstable");
    let nginx = [Nginx::start(&cluster.bed, &web).unwrap(), Nginx::start(&cluster.bed, &db).unwrap()];
    cluster.captured([1, 2]);
    cluster.answers_by_mtls(&client, &web);
    let node = cluster.nodes[1].clone();
    let state = cluster.bed.directory().join(format!("agent-{}/state", node.name));
    // Reset: nothing ends in order. What is on the disk stays, half of a file that was being written too; the API
    // has heard nothing.
    cluster.agents[1].process.kill();
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("roots.json.new"), "{\"anchors\":[").unwrap();
    drop(nginx);
    for pod in [&web, &db] {
        let of_pod = pod.place.cgroup.parent().unwrap();
        cluster.bed.end(&node, pod).unwrap();
        std::fs::remove_dir(of_pod).unwrap();
    }
    cluster.bed.reboot(&node).unwrap();
    assert!(!cluster.bed.pins(&node).exists());
    // Both pods get sandboxes again, each with the address that was the other's.
    let mut again = Vec::new();
    for (number, name) in [(2, "web"), (3, "db")] {
        let mut pod = cluster.bed.pod(&node, &format!("{name}-again")).unwrap();
        pod.name = name.to_owned();
        cluster.settle(&mut pod, number, Layout::SystemdContainerd, "burstable");
        again.push(pod);
    }
    assert_eq!((again[0].ip, again[1].ip), (db.ip, web.ip));
    let _nginx =
        [Nginx::start(&cluster.bed, &again[0]).unwrap(), Nginx::start(&cluster.bed, &again[1]).unwrap()];
    let config = cluster.bed.directory().join("kubeconfig");
    let mesh = Mesh::elsewhere(&format!("kubernetes:{}", config.display()));
    cluster.agents[1] = agent(&cluster.bed, &node, &cluster.controller, &mesh);
    // By what the API still says each address is the other pod's: nobody is taken anywhere.
    let elsewhere =
        || Ok(["web", "db"].iter().all(|n| crate::held::state(&cluster.agents[1], n).contains("none of")));
    eventually(LIMIT, "both are where the API does not say", elsewhere)
        .unwrap_or_else(|e| panic!("{e:#}\n{}", cluster.agents[1].table(&["workloads"]).unwrap()));
    cluster.captured([1, 0]);
    for pod in &again {
        let url = format!("http://{}:8080/", pod.ip);
        let answer = client.place.run("curl", &["-sS", "--max-time", "20", &url]);
        assert!(answer.is_err(), "{answer:?}\n{}", cluster.logs());
    }
    // The kubelet tells the API what is so.
    for (number, pod) in [2, 3].into_iter().zip(&again) {
        cluster.tell(pod, number);
    }
    cluster.captured([1, 2]);
    for pod in &again {
        cluster.answers_by_mtls(&client, pod);
        let edges = cluster.agents[1].table(&["edges"]).unwrap();
        assert!(edges.contains(&format!("Deployment/{}", pod.name)), "{edges}");
    }
}

/// How many pods come and go, each for some tenths of a second, and how many a second are begun: for a minute, and for
/// longer where the machine cannot keep up beside all else that it does.
const LIVES: u32 = 3_000;
const PER_SECOND: u32 = 50;
/// Within which they have lived on any machine.
const WITHIN: Duration = Duration::from_secs(300);
/// As many are there at one time.
const AT_ONCE: usize = 200;
/// Their numbers begin here: each has its own UID.
const FIRST: u32 = 100;
/// Between two tries to remove a pod's cgroup: each takes a lock of the kernel's that captures need too.
const AGAIN: Duration = Duration::from_millis(20);

/// Makes processes as pods have them, quickly: for each line of its input a process that makes a network namespace with
/// an address, enters a cgroup while it is still on the node's network, as runtimes do, then the namespace, then talks to
/// a server until that has answered, and says so. There is no way out of that namespace but the agent's.
const RUNTIME: &str = r#"
import ctypes, fcntl, os, signal, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
server = (sys.argv[1], 7070)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
def ioctl(s, request, name, data):
    fcntl.ioctl(s, request, struct.pack('16s24s', name, data))
def address(of):
    return struct.pack('HH4s', socket.AF_INET, 0, socket.inet_aton(of))
def live(uid, own, procs):
    node = os.open('/proc/self/ns/net', os.O_RDONLY)
    if libc.unshare(0x40000000): raise OSError(ctypes.get_errno(), 'unshare')
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        ioctl(s, 0x8914, b'lo', struct.pack('H', 0x1 | 0x40))  # SIOCSIFFLAGS: IFF_UP | IFF_RUNNING
        ioctl(s, 0x8916, b'lo:1', address(own))                # SIOCSIFADDR
        ioctl(s, 0x891c, b'lo:1', address('255.255.255.255'))  # SIOCSIFNETMASK
    sandbox = os.open('/proc/self/ns/net', os.O_RDONLY)
    libc.setns(node, 0)
    with open(procs, 'w') as f: f.write(str(os.getpid()))
    if libc.setns(sandbox, 0): raise OSError(ctypes.get_errno(), 'setns')
    os.close(node), os.close(sandbox)
    while True:
        try:
            with socket.create_connection(server, 20) as c:
                c.sendall(uid.encode())
                if c.recv(100) == uid.encode(): break
        except OSError: pass
        time.sleep(0.03)
    os.write(1, f'{uid}\n'.encode())
    signal.pause()
for line in sys.stdin:
    if os.fork() == 0:
        try: live(*line.split())
        except BaseException as e: os.write(2, f'{line.strip()}: {e!r}\n'.encode())
        os._exit(1)
"#;

/// A pod of the many.
struct Life {
    object: Value,
    address: String,
    cgroup: PathBuf,
}

impl Life {
    /// Removes its cgroup, if nobody is in it any more.
    fn is_over(&self) -> bool {
        let container = self.cgroup.join("c");
        let is_removed = |path: &Path| std::fs::remove_dir(path).is_ok();
        (is_removed(&container) || !container.exists()) && is_removed(&self.cgroup)
    }
}

/// The factory of processes, and the lines that it says.
fn factory(cluster: &Cluster, runtime: &Pod, server: &Pod, failed: &Path) -> (Child, Receiver<String>) {
    let mut factory = runtime.place.command("python3");
    factory.args(["-c", RUNTIME, &server.ip.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    factory.stderr(std::fs::File::create(failed).unwrap());
    let mut factory = factory.spawn().unwrap_or_else(|e| panic!("{e}\n{}", cluster.logs()));
    let lines = BufReader::new(factory.stdout.take().unwrap()).lines();
    let (tell, told) = channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
    (factory, told)
}

#[test]
fn three_thousand_pods_that_come_and_go_fifty_a_second_are_each_captured_once_and_leave_nothing() {
    let mut cluster = Cluster::new(Some("enabled"));
    let (server, _) = cluster.pod(1, "server", 1, Layout::SystemdContainerd, "");
    let _echo = Echo::start(&cluster.bed, &server).unwrap();
    let node = cluster.nodes[0].clone();
    let runtime = cluster.bed.host_pod(&node, "runtime").unwrap();
    let failed = cluster.bed.directory().join("failed");
    let (mut factory, told) = factory(&cluster, &runtime, &server, &failed);
    let mut orders = factory.stdin.take().unwrap();
    cluster.captured([0, 1]);
    let resting = held(&cluster.bed, &cluster.agents[0]).entries;

    let mut free: VecDeque<String> = (1..=250).map(|n| format!("10.77.1.{n}")).collect();
    let (mut lives, mut ending) = (BTreeMap::<String, Life>::new(), VecDeque::<(Instant, Life)>::new());
    let (mut ended, mut before) = (0, None);
    let (mut began, mut next) = (Instant::now(), 0);
    let until = began + WITHIN;
    while next < LIVES || !lives.is_empty() || !ending.is_empty() {
        assert!(
            Instant::now() < until,
            "of {next} begun {} do not get through, {} do not end: {}\n{}",
            lives.len(),
            ending.len(),
            std::fs::read_to_string(&failed).unwrap(),
            cluster.logs()
        );
        // After the first second there is a pause, to see what an agent holds that had as many pods at once.
        let is_paused = next == PER_SECOND && before.is_none();
        if is_paused && lives.is_empty() && ending.is_empty() {
            cluster.captured([0, 1]);
            // The last of them is gone before the agent has heard of it.
            eventually(LIMIT, "the first fifty are forgotten", || {
                let now = held(&cluster.bed, &cluster.agents[0]).entries;
                anyhow::ensure!(now == resting, "{now:?} instead of {resting:?}");
                Ok(true)
            })
            .unwrap();
            before = Some(held(&cluster.bed, &cluster.agents[0]));
            began = Instant::now() - Duration::from_secs(1);
        }
        let is_due = next < LIVES && began.elapsed() * PER_SECOND >= Duration::from_secs(next.into());
        if !is_paused && is_due && lives.len() + ending.len() < AT_ONCE {
            let address = free.pop_front().unwrap();
            let (id, life) = begin(&cluster, &runtime, FIRST + next, address, &mut orders);
            lives.insert(id, life);
            next += 1;
        }
        for id in told.try_iter() {
            ended += 1;
            let life = lives.remove(&id).unwrap_or_else(|| panic!("{id} lives twice"));
            // By turns the API and the runtime are first to know of the end.
            if ended % 2 == 0 {
                cluster.server.delete(&life.object);
            }
            std::fs::write(life.cgroup.join("cgroup.kill"), "1").unwrap();
            ending.push_back((Instant::now() + AGAIN, life));
        }
        while let Some((_, life)) = ending.pop_front_if(|(due, _)| *due <= Instant::now()) {
            if !life.is_over() {
                ending.push_back((Instant::now() + AGAIN, life));
                continue;
            }
            let name = life.object["metadata"]["name"].as_str().unwrap();
            if cluster.server.find("", "pods", "shop", name).is_some() {
                cluster.server.delete(&life.object);
            }
            free.push_back(life.address);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(orders);
    factory.wait().unwrap();
    assert_eq!(std::fs::read_to_string(&failed).unwrap(), "");
    // Each spoke through the agent, which captured each, and once.
    cluster.captured([0, 1]);
    let captures = captures(&cluster.agents[0]);
    let more: BTreeMap<_, _> = captures.iter().filter(|(_, count)| **count != 1).collect();
    assert!(more.is_empty(), "captured more than once: {more:?}");
    assert_eq!(captures.len(), LIVES as usize);
    let before = before.unwrap();
    eventually(LIMIT, "nothing more is held than after the first fifty", || {
        let now = held(&cluster.bed, &cluster.agents[0]);
        anyhow::ensure!(!now.is_more_than(&before), "{now:#?} instead of {before:#?}");
        Ok(true)
    })
    .unwrap();
    assert_eq!((before.links.len(), before.entries["POD"]), (0, 0), "{before:#?}");
    assert!(before.pins > 0 && before.watches > 0 && before.threads > 0, "{before:#?}");
    assert!(!cluster.agents[0].process.log().contains("ERROR"), "{}", cluster.logs());
}

/// One more pod: its cgroups, its process, and what the API says of it, which by turns comes first.
fn begin(
    cluster: &Cluster,
    runtime: &Pod,
    number: u32,
    address: String,
    orders: &mut impl Write,
) -> (String, Life) {
    let layouts =
        [Layout::SystemdContainerd, Layout::SystemdCrio, Layout::CgroupfsContainerd, Layout::CgroupfsCrio];
    let class = ["", "burstable", "besteffort"][number as usize % 3];
    let id = uid(number);
    let cgroup = cluster.root(runtime).join(layouts[number as usize % 4].pod(&id, class));
    let mut object = objects::pod("shop", &format!("life-{number}"), "life", "one", &[&address]);
    object["metadata"]["uid"] = json!(id);
    if number.is_multiple_of(2) {
        cluster.server.put(object.clone());
    }
    std::fs::create_dir_all(cgroup.join("c")).unwrap();
    writeln!(orders, "{id} {address} {}", cgroup.join("c/cgroup.procs").display()).unwrap();
    orders.flush().unwrap();
    if !number.is_multiple_of(2) {
        cluster.server.put(object.clone());
    }
    (id, Life { object, address, cgroup })
}

//! Agents in a cluster: pods of real processes in cgroups as kubelets name them, captured because the API
//! says so.

use std::path::PathBuf;

use lark_apiserver::{ApiServer, objects};
use lark_sys::netns::NetNs;
use lark_testbed::{Agent, Controller, Mesh, Nginx, Node, Pod, Running, Testbed, Wire, eventually};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::world::LIMIT;

const ID: &str = "8f3c5b0e8f3c5b0e8f3c5b0e8f3c5b0e8f3c5b0e8f3c5b0e8f3c5b0e8f3c5b0e";

/// Where a kubelet puts a pod of this UID, and a runtime one of its containers.
#[derive(Clone, Copy)]
pub(crate) enum Layout {
    SystemdContainerd,
    SystemdCrio,
    CgroupfsContainerd,
    CgroupfsCrio,
}

impl Layout {
    pub(crate) fn pod(self, uid: &str, class: &str) -> String {
        let flat = uid.replace('-', "_");
        match (self, class) {
            (Self::SystemdContainerd | Self::SystemdCrio, "") => {
                format!("kubepods.slice/kubepods-pod{flat}.slice")
            }
            (Self::SystemdContainerd | Self::SystemdCrio, class) => {
                format!("kubepods.slice/kubepods-{class}.slice/kubepods-{class}-pod{flat}.slice")
            }
            (Self::CgroupfsContainerd | Self::CgroupfsCrio, "") => format!("kubepods/pod{uid}"),
            (Self::CgroupfsContainerd | Self::CgroupfsCrio, class) => format!("kubepods/{class}/pod{uid}"),
        }
    }

    fn container(self) -> String {
        match self {
            Self::SystemdContainerd => format!("cri-containerd-{ID}.scope"),
            Self::SystemdCrio => format!("crio-{ID}.scope"),
            Self::CgroupfsContainerd => ID.to_owned(),
            Self::CgroupfsCrio => format!("crio-{ID}"),
        }
    }
}

/// A cluster of two nodes with agents. Fields are dropped in this order: agents before the bed.
pub(crate) struct Cluster {
    pub(crate) agents: Vec<Agent>,
    pub(crate) controller: Controller,
    pub(crate) server: ApiServer,
    _runtime: Runtime,
    pub(crate) nodes: [Node; 2],
    pauses: Vec<Running>,
    pub(crate) bed: Testbed,
}

/// An agent that shows the token of its pod.
pub(crate) fn agent(bed: &Testbed, node: &Node, controller: &Controller, mesh: &Mesh) -> Agent {
    agent_with(bed, node, controller, mesh, &[])
}

fn agent_with(bed: &Testbed, node: &Node, controller: &Controller, mesh: &Mesh, flags: &[&str]) -> Agent {
    let token = bed.directory().join(format!("token-of-{}", node.name));
    let mut all = vec![format!("--token-file={}", token.display())];
    all.extend(flags.iter().map(|&flag| flag.to_owned()));
    Agent::start_with(bed, node, controller, mesh, &all).unwrap()
}

/// Has the file of the first root where agents look for it, from the ConfigMap of a controller that keeps its state in
/// the cluster; one that keeps it in a directory brings it itself.
fn bring_root(bed: &Testbed, server: &ApiServer) {
    let file = bed.directory().join("root.pem");
    let published = || {
        let map = server.find("", "configmaps", "lark-system", "lark-root");
        if let Some(root) = map.as_ref().and_then(|map| map["data"]["root.pem"].as_str()) {
            std::fs::write(&file, root)?;
        }
        Ok(file.exists())
    };
    if !file.exists() {
        eventually(LIMIT, "the root is published", published).unwrap();
    }
}

/// The UID of a pod. Tests that run beside this one have theirs in the same tree of cgroups.
pub(crate) fn uid(number: u32) -> String {
    format!("0c2f9a9e-52cf-4ad0-9d0b-{:08x}{number:04x}", std::process::id())
}

impl Cluster {
    /// Its controller keeps the CA in its own directory.
    pub(crate) fn new(capture: Option<&str>) -> Self {
        Self::with(capture, |_| Vec::new())
    }

    /// The same, with more flags for the controller, which runs on that node.
    pub(crate) fn with(capture: Option<&str>, more: impl FnOnce(&Node) -> Vec<String>) -> Self {
        let mut bed = Testbed::new().unwrap();
        let nodes = [bed.node("one").unwrap(), bed.node("two").unwrap()];
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // In the network of node one, where the other reaches it too.
        let netns = NetNs::open(&nodes[0].place.netns).unwrap();
        let at = (nodes[0].ip, 6443);
        let listener = netns.within(|| std::net::TcpListener::bind(at)).unwrap().unwrap();
        let server = runtime.block_on(ApiServer::start_on(listener)).unwrap();
        server.put(objects::namespace("shop", capture));
        for node in &nodes {
            server.put(objects::node(&node.name, &node.ip.to_string()));
        }
        server.put(objects::namespace("lark-system", None));
        for node in &nodes {
            let name = format!("agent-{}", node.name);
            let mut pod =
                objects::pod("lark-system", &name, "lark-agent", &node.name, &[&node.ip.to_string()]);
            pod["spec"]["hostNetwork"] = json!(true);
            let pod = server.put(pod);
            let user = "system:serviceaccount:lark-system:lark-agent";
            server.know_token(&name, objects::review(user, &["lark-ca"], Some(&node.name), &pod));
            std::fs::write(bed.directory().join(format!("token-of-{}", node.name)), &name).unwrap();
        }
        let config = server.kubeconfig(bed.directory()).unwrap();
        let mesh = Mesh::elsewhere(&format!("kubernetes:{}", config.display()));
        let mut flags =
            ["--agent-account=lark-system/lark-agent", "--replica=r0"].map(str::to_owned).to_vec();
        flags.extend(more(&nodes[0]));
        let controller = Controller::start_with(&bed, &nodes[0], &[], &mesh, &flags).unwrap();
        bring_root(&bed, &server);
        let agents = nodes.iter().map(|n| agent(&bed, n, &controller, &mesh)).collect();
        Self { agents, controller, server, _runtime: runtime, nodes, pauses: Vec::new(), bed }
    }

    /// A pod with a process in it, and the object that the API server keeps of it. Its place is that of its
    /// container.
    pub(crate) fn pod(
        &mut self,
        node: usize,
        name: &str,
        number: u32,
        layout: Layout,
        class: &str,
    ) -> (Pod, Value) {
        let node = self.nodes[node].clone();
        let mut pod = self.bed.pod(&node, name).unwrap();
        self.settle(&mut pod, number, layout, class);
        let object = self.tell(&pod, number);
        (pod, object)
    }

    /// Puts a pod where its kubelet would, with a process in it.
    pub(crate) fn settle(&mut self, pod: &mut Pod, number: u32, layout: Layout, class: &str) {
        pod.place.cgroup = self.place(pod, number, layout, class);
        self.pause(pod);
    }

    /// Makes the cgroup of a pod's container, where its kubelet and its runtime would.
    pub(crate) fn place(&self, pod: &Pod, number: u32, layout: Layout, class: &str) -> PathBuf {
        let cgroup = self.root(pod).join(layout.pod(&uid(number), class)).join(layout.container());
        std::fs::create_dir_all(&cgroup).unwrap();
        cgroup
    }

    /// The root of this bed's cgroups, in the place of `--cgroup-root`; the pod has no other place yet.
    pub(crate) fn root(&self, pod: &Pod) -> PathBuf {
        pod.place.cgroup.parent().unwrap().to_owned()
    }

    /// Starts the process that holds a sandbox.
    pub(crate) fn pause(&mut self, pod: &Pod) {
        let mut sleep = pod.place.command("sleep");
        sleep.arg("3600");
        let log = self.bed.directory().join(format!("pause-{}", pod.name));
        self.pauses.push(pod.place.start(sleep, &log).unwrap());
    }

    /// Has the API tell of a pod, with its addresses.
    pub(crate) fn tell(&self, pod: &Pod, number: u32) -> Value {
        self.tell_in("shop", pod, number)
    }

    /// The same, of one in another namespace.
    pub(crate) fn tell_in(&self, namespace: &str, pod: &Pod, number: u32) -> Value {
        let addresses = [pod.ip.to_string(), pod.ip6.to_string()];
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let mut object = objects::pod(namespace, &pod.name, &pod.name, &pod.node, &addresses);
        object["metadata"]["uid"] = json!(uid(number));
        self.server.put(object)
    }

    pub(crate) fn captured(&self, counts: [u64; 2]) {
        for (agent, count) in self.agents.iter().zip(counts) {
            agent.wait_captured(count).unwrap();
        }
    }

    pub(crate) fn logs(&self) -> String {
        self.agents.iter().map(|a| format!("{}:\n{}\n", a.node.name, a.process.log())).collect()
    }

    /// Waits until the server answers, and the edge to it is secured.
    pub(crate) fn answers_by_mtls(&self, from: &Pod, to: &Pod) {
        let url = format!("http://{}:8080/", to.ip);
        let secured = || {
            let answer = from.place.run("curl", &["-sS", "--max-time", "5", &url])?;
            let edges = self.agents[1].table(&["edges"])?;
            Ok(answer == "canary-of-lark\n" && edges.contains("√ mTLS"))
        };
        eventually(LIMIT, "the server answers by mTLS", secured)
            .unwrap_or_else(|e| panic!("{e:#}\n{}", self.logs()));
    }

    pub(crate) fn curl(&self, from: &Pod, to: &Pod) -> String {
        let url = format!("http://{}:8080/", to.ip);
        from.place
            .run("curl", &["-sS", "--max-time", "20", &url])
            .unwrap_or_else(|e| panic!("{e:#}\n{}", self.logs()))
    }
}

#[test]
fn a_label_on_the_namespace_captures_the_pods_of_a_cluster_and_its_going_releases_them() {
    let mut cluster = Cluster::new(None);
    let (client, _) = cluster.pod(0, "client", 1, Layout::SystemdContainerd, "burstable");
    let (server, _) = cluster.pod(1, "server", 2, Layout::SystemdCrio, "besteffort");
    let _nginx = Nginx::start(&cluster.bed, &server).unwrap();
    cluster.captured([0, 0]);
    let wire = Wire::listen(&cluster.bed).unwrap();
    cluster.curl(&client, &server);
    assert!(wire.count("canary-of-lark").unwrap() > 0);
    // A connection that is older than the capture is left as it is, and said.
    let mut older = client.place.command("bash");
    older.args(["-c", &format!("exec 3<>/dev/tcp/{}/8080; echo open; sleep 3600", server.ip)]);
    let older = client.place.start(older, &cluster.bed.directory().join("older")).unwrap();
    eventually(LIMIT, "the older connection is open", || Ok(older.log().contains("open"))).unwrap();
    for _ in 0..2 {
        cluster.server.put(objects::namespace("shop", Some("enabled")));
        cluster.captured([1, 1]);
        let wire = Wire::listen(&cluster.bed).unwrap();
        assert_eq!(cluster.curl(&client, &server), "canary-of-lark\n");
        assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
        let connections = cluster.agents[0].table(&["connections"]).unwrap();
        assert!(connections.contains("✗ plaintext"), "{connections}");
        let edges = cluster.agents[0].table(&["edges"]).unwrap();
        assert!(edges.contains("Deployment/server") && edges.contains("√ mTLS"), "{edges}");
        cluster.server.put(objects::namespace("shop", None));
        cluster.captured([0, 0]);
    }
}

#[test]
fn a_strict_label_on_the_namespace_keeps_plaintext_from_its_pods() {
    let mut cluster = Cluster::new(Some("enabled"));
    let (client, _) = cluster.pod(0, "client", 1, Layout::SystemdContainerd, "burstable");
    let (server, _) = cluster.pod(1, "server", 2, Layout::CgroupfsCrio, "");
    let (stranger, mut object) = cluster.pod(0, "stranger", 3, Layout::SystemdCrio, "besteffort");
    object["metadata"]["labels"]["lark.mesh/capture"] = json!("disabled");
    cluster.server.put(object);
    cluster.captured([1, 1]);
    let _nginx = Nginx::start(&cluster.bed, &server).unwrap();
    assert_eq!(cluster.curl(&stranger, &server), "canary-of-lark\n");
    let mut namespace = objects::namespace("shop", Some("enabled"));
    namespace["metadata"]["labels"]["lark.mesh/mtls"] = json!("strict");
    cluster.server.put(namespace);
    let url = format!("http://{}:8080/", server.ip);
    let refused = || Ok(stranger.place.run("curl", &["-sS", "--max-time", "5", &url]).is_err());
    eventually(LIMIT, "plaintext is refused", refused)
        .unwrap_or_else(|e| panic!("{e:#}\n{}", cluster.logs()));
    cluster.answers_by_mtls(&client, &server);
}

#[test]
fn pods_are_found_by_the_names_of_every_driver_runtime_and_class() {
    let mut cluster = Cluster::new(Some("enabled"));
    let layouts =
        [Layout::SystemdContainerd, Layout::SystemdCrio, Layout::CgroupfsContainerd, Layout::CgroupfsCrio];
    let mut number = 0;
    for layout in layouts {
        for class in ["", "burstable", "besteffort"] {
            number += 1;
            cluster.pod(0, &format!("p{number}"), number, layout, class);
        }
    }
    cluster.captured([u64::from(number), 0]);
    // What is in the kernel is on the pod's own cgroup, above its containers.
    let links = cluster.agents[0].json("bpf").unwrap()["links"].to_string();
    assert!(!links.contains("severed"), "{links}");
}

#[test]
fn a_sandbox_made_anew_is_captured_anew_and_an_agent_that_starts_finds_running_pods() {
    let mut cluster = Cluster::new(Some("enabled"));
    let (client, _) = cluster.pod(0, "client", 1, Layout::SystemdContainerd, "");
    let (mut server, _) = cluster.pod(1, "server", 2, Layout::CgroupfsContainerd, "burstable");
    cluster.captured([1, 1]);
    // Its process ends, and with it its namespace; the kubelet makes another sandbox in the same cgroup.
    cluster.pauses.pop();
    let fresh = cluster.bed.pod(&cluster.nodes[1].clone(), "fresh").unwrap();
    server.place.netns = fresh.place.netns;
    (server.ip, server.ip6) = (fresh.ip, fresh.ip6);
    cluster.pause(&server);
    cluster.tell(&server, 2);
    let _nginx = Nginx::start(&cluster.bed, &server).unwrap();
    cluster.answers_by_mtls(&client, &server);
    // Killed, and started again while the pods run.
    let config = cluster.bed.directory().join("kubeconfig");
    let mesh = Mesh::elsewhere(&format!("kubernetes:{}", config.display()));
    cluster.agents[1].process.kill();
    cluster.agents[1] = agent(&cluster.bed, &cluster.nodes[1], &cluster.controller, &mesh);
    cluster.captured([1, 1]);
    cluster.answers_by_mtls(&client, &server);
}

#[test]
fn an_agent_that_ends_takes_its_hooks_away_if_lark_is_uninstalled_and_else_leaves_them_to_the_next() {
    let mut cluster = Cluster::new(Some("enabled"));
    let (client, _) = cluster.pod(0, "client", 1, Layout::SystemdContainerd, "burstable");
    let (server, _) = cluster.pod(1, "server", 2, Layout::SystemdCrio, "");
    let _nginx = Nginx::start(&cluster.bed, &server).unwrap();
    let service = cluster.server.put(objects::service("lark-system", "lark-controller", "10.96.0.15", 15012));
    let config = cluster.bed.directory().join("kubeconfig");
    let mesh = Mesh::elsewhere(&format!("kubernetes:{}", config.display()));
    let node = cluster.nodes[0].clone();
    let (pins, state) =
        (cluster.bed.pins(&node), cluster.bed.directory().join(format!("agent-{}/state", node.name)));
    let flags = ["--leave-without=lark-system/lark-controller", "--agent-down=refuse"];
    let url = format!("http://{}:8080/", server.ip);
    for is_uninstalled in [false, true] {
        if cluster.agents[0].process.is_running() {
            cluster.agents[0].process.stop().unwrap();
        }
        cluster.agents[0] = agent_with(&cluster.bed, &node, &cluster.controller, &mesh, &flags);
        cluster.captured([1, 1]);
        cluster.answers_by_mtls(&client, &server);
        if is_uninstalled {
            cluster.server.delete(&service);
            let agent = &cluster.agents[0];
            eventually(LIMIT, "the Service is gone", || {
                Ok(!agent.table(&["services"])?.contains("lark-controller"))
            })
            .unwrap();
        }
        // What an agent that has learned a new root keeps for the next.
        std::fs::create_dir_all(&state).unwrap();
        std::fs::write(state.join("roots.json"), "{}").unwrap();
        cluster.agents[0].process.stop().unwrap();
        // A pod whose hooks are there is refused now; without them it is as before Lark.
        let answer = client.place.run("curl", &["-sS", "--max-time", "20", &url]);
        assert_eq!(answer.is_ok(), is_uninstalled, "{answer:?}\n{}", cluster.logs());
        assert_eq!(pins.exists(), !is_uninstalled, "{}", cluster.logs());
        assert_eq!(state.join("roots.json").exists(), !is_uninstalled);
        let _ = std::fs::remove_file(state.join("roots.json"));
    }
    // The other agent was not told to leave, and carries on.
    cluster.agents[1].wait_captured(1).unwrap();
}

#[test]
fn a_pod_whose_processes_are_elsewhere_is_not_captured_and_said_so() {
    let mut cluster = Cluster::new(Some("enabled"));
    let (pod, _) = cluster.pod(0, "web", 1, Layout::SystemdContainerd, "");
    cluster.captured([1, 0]);
    // The API says another address than the namespace of the pod's processes has.
    let mut object = objects::pod("shop", "liar", "liar", "one", &["10.77.1.201"]);
    object["metadata"]["uid"] = json!(uid(2));
    let cgroup = pod
        .place
        .cgroup
        .ancestors()
        .nth(3)
        .unwrap()
        .join(Layout::SystemdContainerd.pod(&uid(2), ""))
        .join("c");
    std::fs::create_dir_all(&cgroup).unwrap();
    let mut liar = pod;
    liar.name = "liar".to_owned();
    liar.place.cgroup = cgroup;
    cluster.pause(&liar);
    cluster.server.put(object);
    eventually(LIMIT, "the liar is told", || {
        let workloads = cluster.agents[0].table(&["workloads"])?;
        Ok(workloads
            .contains("none of the 1 network namespaces of its processes has its address 10.77.1.201"))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", cluster.agents[0].table(&["workloads"]).unwrap()));
    cluster.captured([1, 0]);
}

#[test]
fn the_whole_cluster_is_asked_through_the_controller_and_who_says_nothing_is_named() {
    let mut cluster = Cluster::new(Some("enabled"));
    let (client, _) = cluster.pod(0, "client", 1, Layout::SystemdContainerd, "");
    let (server, _) = cluster.pod(1, "server", 2, Layout::SystemdContainerd, "");
    cluster.captured([1, 1]);
    let _nginx = Nginx::start(&cluster.bed, &server).unwrap();
    cluster.answers_by_mtls(&client, &server);
    let table = |verb: &str| {
        let output = cluster.controller.lark(&[verb]).unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap(), output.status)
    };
    // Both ends of the connection, each told by its node.
    let (edges, said, status) = table("edges");
    for (node, direction) in [("one", "outbound"), ("two", "inbound")] {
        let told =
            edges.lines().any(|l| l.starts_with(node) && l.contains("√ mTLS") && l.contains(direction));
        assert!(told && said.is_empty() && status.success(), "{node}: {edges}\n{said}");
    }
    for verb in ["status", "check", "connections", "certs"] {
        let (told, said, _) = table(verb);
        assert!(told.starts_with("NODE") && said.is_empty(), "{verb}: {told}\n{said}");
    }
    cluster.agents[1].process.kill();
    eventually(LIMIT, "the node that says nothing is named", || {
        Ok(table("edges").0.contains("✗ two: its agent does not follow this controller"))
    })
    .unwrap();
    let (checks, said, status) = table("check");
    assert_eq!(status.code(), Some(1), "{checks}");
    assert!(said.contains("1 of 2 nodes gave no answer: two"), "{said}");
    let output = cluster.controller.lark(&["status", "-o", "json"]).unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told[0]["answer"]["node"], "one");
    assert!(told[1]["answer"].is_null() && told[1]["missing"].is_string(), "{told}");
}

#[test]
fn a_pod_that_is_to_be_captured_and_cannot_be_is_told_of_by_one_event_in_its_namespace() {
    let mut cluster = Cluster::new(Some("enabled"));
    let (_, mut object) = cluster.pod(0, "client", 1, Layout::SystemdContainerd, "burstable");
    object["metadata"]["labels"]["lark.mesh/capture"] = json!("yes");
    cluster.server.put(object.clone());
    let events = || cluster.server.all("events.k8s.io", "events");
    eventually(LIMIT, "there is an Event", || Ok(!events().is_empty()))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", cluster.logs()));
    // It is not told of with each report of its agent.
    std::thread::sleep(std::time::Duration::from_secs(6));
    let events = events();
    let [event] = events.as_slice() else { panic!("{events:?}") };
    for (field, expected) in [
        ("type", json!("Warning")),
        ("reason", json!("LarkNotCaptured")),
        ("action", json!("Capture")),
        ("reportingController", json!("lark.mesh/controller")),
        ("reportingInstance", json!("r0")),
    ] {
        assert_eq!(event[field], expected, "{event}");
    }
    assert_eq!(event["regarding"]["uid"], object["metadata"]["uid"], "{event}");
    assert_eq!(event["metadata"]["namespace"], "shop", "{event}");
    assert!(event["eventTime"].as_str().is_some_and(|time| time.ends_with('Z')), "{event}");
    let note = event["note"].as_str().unwrap();
    assert!(note.contains("label lark.mesh/capture must be enabled or disabled"), "{note}");
    let asked = crate::rbac::asked(&cluster.server);
    let told = ("create".to_owned(), "events.k8s.io".to_owned(), "events".to_owned());
    assert!(asked.contains(&told) && crate::rbac::granted("lark-events").contains(&told));
}

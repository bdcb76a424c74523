//! Two real agents of a cluster with pods that talk, and people at their laptops: an operator sees all of it by
//! kubeconfig and port-forward, a tenant by his own token what concerns his namespace, and nothing else anywhere.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lark_apiserver::{Backend, objects};
use lark_sys::netns::NetNs;
use lark_testbed::{Nginx, Place, Pod, Running, eventually, lark_binary};
use serde_json::{Value, json};

use crate::node::{Cluster, Layout, uid};
use crate::world::LIMIT;

const FORWARD: u16 = 15016;
const STATUS: u16 = 15013;

/// What `bank` has that a tenant of `shop` is not to read anywhere: names first, then addresses.
struct Secrets(Vec<String>, Vec<String>);

impl Secrets {
    /// The first of them that a text has.
    fn in_text(&self, text: &str) -> Option<&str> {
        let is_whole = |at: usize, address: &str| {
            let ends = [text[..at].chars().next_back(), text[at + address.len()..].chars().next()];
            !ends.iter().flatten().any(|c| c.is_ascii_hexdigit())
        };
        let name = self.0.iter().find(|name| text.contains(name.as_str()));
        name.or_else(|| {
            self.1.iter().find(|address| {
                text.match_indices(address.as_str()).any(|(at, address)| is_whole(at, address))
            })
        })
        .map(String::as_str)
    }
}

/// Both namespaces, a pod of each on either node, and what they have asked of each other.
struct Town {
    _open: [Running; 2],
    _nginx: [Nginx; 2],
    client: Pod,
    web: Pod,
    teller: Pod,
    vault: Pod,
    /// Where people sit: nothing of this is a pod.
    laptop: Place,
    lark: PathBuf,
    cluster: Cluster,
}

/// An open page.
struct Page {
    address: String,
    secret: String,
    laptop: NetNs,
    _process: Running,
}

impl Town {
    fn new() -> Self {
        let mut cluster = Cluster::with(Some("enabled"), |node| {
            vec![
                "--state-namespace=lark-system".to_owned(),
                format!("--forward-listen=127.0.0.1:{FORWARD}"),
                format!("--status-listen={}:{STATUS}", node.ip),
            ]
        });
        let server = &cluster.server;
        server.put(objects::namespace("bank", Some("enabled")));
        server.put(objects::pod("lark-system", "r0", "lark-controller", "one", &[]));
        server.put(objects::service("lark-system", "lark-controller", "10.96.0.15", 15012));
        let (netns, ip) = (NetNs::open(&cluster.nodes[0].place.netns).unwrap(), cluster.nodes[0].ip);
        // As kubelets and kube-proxy lead to the controller's pod.
        server.reach(move |backend| {
            let to = match backend {
                Backend::Pod { name, port: FORWARD } if name == "r0" => ([127, 0, 0, 1], FORWARD).into(),
                Backend::Service { name, port } if name == "lark-controller" && port == "status" => {
                    (ip, STATUS).into()
                }
                _ => return Err(io::ErrorKind::ConnectionRefused.into()),
            };
            netns.within(|| TcpStream::connect::<std::net::SocketAddr>(to)).map_err(io::Error::other)?
        });
        let layout = Layout::SystemdContainerd;
        let (client, _) = cluster.pod(0, "client", 1, layout, "");
        let (web, _) = cluster.pod(1, "web", 2, layout, "burstable");
        let [teller, vault] = [(0, "teller", 3), (1, "vault", 4)].map(|(node, name, number)| {
            let node = cluster.nodes[node].clone();
            let mut pod = cluster.bed.pod(&node, name).unwrap();
            cluster.settle(&mut pod, number, layout, "");
            cluster.tell_in("bank", &pod, number);
            pod
        });
        cluster.captured([2, 2]);
        let nginx = [&web, &vault].map(|pod| Nginx::start(&cluster.bed, pod).unwrap());
        let laptop = cluster.bed.host_pod(&cluster.nodes[0].clone(), "laptop").unwrap().place;
        let open = [(&client, &web, 7), (&teller, &vault, 5)]
            .map(|(from, to, requests)| talk(&cluster, from, to, requests));
        let lark = lark_binary().unwrap();
        Self { _open: open, _nginx: nginx, client, web, teller, vault, laptop, lark, cluster }
    }

    /// What of `bank` no tenant of another namespace may read.
    fn secrets(&self) -> Secrets {
        let names = ["bank", "teller", "vault", &uid(3), &uid(4)].map(str::to_owned);
        let pods = [&self.teller, &self.vault];
        Secrets(
            names.into(),
            pods.iter().flat_map(|pod| [pod.ip, pod.ip6]).map(|ip| ip.to_string()).collect(),
        )
    }

    /// The kubeconfig of a user, whose token is his name.
    fn user(&self, name: &str, rights: &[(&str, &str)]) -> PathBuf {
        self.cluster.server.user(name, name, rights);
        let home = self.cluster.bed.directory();
        self.cluster.server.kubeconfig_with(home, &format!("{name}.conf"), &json!({ "token": name })).unwrap()
    }

    /// `lark VERB --cluster` at the laptop.
    fn command(&self, config: &Path, verb: &[&str]) -> Command {
        let mut command = self.laptop.command(&self.lark);
        for name in ["KUBECONFIG", "KUBERNETES_SERVICE_HOST", "LARK_CONTROLLER_SOCKET", "LARK_NAMESPACE"] {
            command.env_remove(name);
        }
        command.env("HOME", self.cluster.bed.directory().join("nobody"));
        command.args(verb).arg("--cluster").arg("--kubeconfig").arg(config);
        command
    }

    fn run(&self, config: &Path, verb: &[&str]) -> Output {
        self.command(config, verb).output().unwrap()
    }

    /// What a verb that succeeds prints.
    fn table(&self, config: &Path, verb: &[&str]) -> String {
        let output = self.run(config, verb);
        assert!(output.status.success(), "{verb:?}: {output:?}\n{}", self.cluster.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    /// The answers of both nodes to a verb, each a list, in one.
    fn json(&self, config: &Path, verb: &[&str]) -> Vec<Value> {
        let told = self.table(config, &[verb, &["-o", "json"]].concat());
        both(&serde_json::from_str(&told).unwrap())
    }

    fn page(&self, config: &Path) -> Page {
        let log = self.cluster.bed.directory().join(format!("{}.page", config.display()));
        let process = self.laptop.start(self.command(config, &["dashboard"]), &log).unwrap();
        eventually(LIMIT, "the page is there", || Ok(process.log().contains("/#"))).unwrap();
        let said = process.log();
        let (address, secret) = said.split_once("http://").unwrap().1.split_once("/#").unwrap();
        let (address, secret) = (address.to_owned(), secret.split_whitespace().next().unwrap().to_owned());
        Page { address, secret, laptop: NetNs::open(&self.laptop.netns).unwrap(), _process: process }
    }
}

impl Page {
    /// What it answers to the browser: status line and headers with the body.
    fn get(&self, target: &str) -> String {
        let address: std::net::SocketAddr = self.address.parse().unwrap();
        let mut stream = self.laptop.within(|| TcpStream::connect(address)).unwrap().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let Self { address, secret, .. } = self;
        let request = format!(
            "GET {target} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {secret}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The answers of both nodes to one of the page's questions.
    fn ask(&self, question: &str) -> Value {
        let answer = self.get(&format!("/api/v1/{question}"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{question}: {answer}");
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{question}: {e}: {body}"))
    }
}

/// So many requests by one connection, which has ended then, and another one that stays open.
fn talk(cluster: &Cluster, from: &Pod, to: &Pod, requests: usize) -> Running {
    let url = format!("http://{}:8080/index.html?[1-{requests}]", to.ip);
    let answers = from.place.run("curl", &["-sS", "--max-time", "20", &url]);
    let answers = answers.unwrap_or_else(|e| panic!("{e:#}\n{}", cluster.logs()));
    assert_eq!(answers, "canary-of-lark\n".repeat(requests));
    let mut open = from.place.command("bash");
    open.args(["-c", &format!("exec 3<>/dev/tcp/{}/8080; echo open; sleep 3600", to.ip)]);
    let open = from.place.start(open, &cluster.bed.directory().join(format!("open-{}", from.name))).unwrap();
    eventually(LIMIT, "a connection is open", || Ok(open.log().contains("open"))).unwrap();
    open
}

/// What all nodes have answered, in one list; each has.
fn both(told: &Value) -> Vec<Value> {
    let nodes = told.as_array().unwrap();
    assert_eq!(nodes.iter().map(|node| &node["node"]).collect::<Vec<_>>(), ["one", "two"], "{told}");
    let answer = |node: &Value| node["answer"].as_array().unwrap_or_else(|| panic!("{node}")).clone();
    nodes.iter().flat_map(answer).collect()
}

/// Both ends' rows of one pair: the identities that were proved, √ and nothing else.
fn is_secured(rows: &[Value], namespace: &str, source: &str, destination: &str) {
    let identity = |account: &str| json!(format!("spiffe://cluster.local/ns/{namespace}/sa/{account}"));
    let of: Vec<&Value> = rows.iter().filter(|row| row["source"]["identity"] == identity(source)).collect();
    let directions: Vec<&Value> = of.iter().map(|row| &row["direction"]).collect();
    assert_eq!(directions, ["outbound", "inbound"], "{source}: {rows:#?}");
    for row in of {
        assert_eq!(row["secured"], "mtls", "{row}");
        assert_eq!(row["destination"]["identity"], identity(destination), "{row}");
    }
}

#[test]
fn an_operator_and_a_tenant_see_what_two_real_agents_carry_and_the_tenant_only_what_is_his() {
    let town = Town::new();
    let operator = town.user("operator", &[("get", "leases"), ("get", "pods/portforward")]);
    let tenant = town.user("ann", &[("get", "services/proxy")]);
    town.cluster.server.may_get_pods("ann", &["shop"]);
    let [client, web] = [&town.client, &town.web].map(|pod| format!("shop/{}", pod.name));
    let to_web = format!("{}:8080", town.web.ip);

    // The operator. Edges are of what has ended, which the agents hear of a moment later.
    let edges = || town.json(&operator, &["edges"]);
    let mut last = Vec::new();
    eventually(LIMIT, "both ends tell of both connections", || {
        last = edges();
        Ok(last.len() == 4)
    })
    .unwrap_or_else(|e| panic!("{e:#}: {last:#?}"));
    for (namespace, source, destination) in [("shop", "client", "web"), ("bank", "teller", "vault")] {
        is_secured(&last, namespace, source, destination);
        is_secured(&town.json(&operator, &["connections"]), namespace, source, destination);
    }
    let table = town.table(&operator, &["edges"]);
    assert_eq!(table.matches("√ mTLS").count(), 4, "{table}");
    assert_eq!(table.matches("✗").count(), 0, "{table}");
    // Requests are those that curl made, at both ends.
    let requests = |config: &Path| {
        let rows = town.json(config, &["stat", "--by", "edge"]);
        let row = |row: &Value| {
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            (text("source_namespace"), text("direction"), row["requests"].as_u64().unwrap())
        };
        rows.iter().map(row).collect::<Vec<_>>()
    };
    let counted = |namespace: &str, requests: u64| {
        ["outbound", "inbound"].map(|way| (namespace.to_owned(), way.to_owned(), requests))
    };
    let mut all = requests(&operator);
    all.sort();
    let mut expected = [counted("bank", 5), counted("shop", 7)].concat();
    expected.sort();
    assert_eq!(all, expected);
    let check = town.run(&operator, &["check"]);
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success() && !said.contains('✗'), "{said}{}", town.cluster.logs());
    let way = town.table(&operator, &["trace", "--from", &client, "--to", &to_web]);
    assert!(way.contains("tunnel") && way.contains("spiffe://cluster.local/ns/shop/sa/web"), "{way}");
    let course = town.table(&operator, &["trace", "--last", "--from", &client, "--to", &web]);
    assert!(
        course.contains("√ mTLS") && course.contains("outbound") && course.contains("inbound"),
        "{course}"
    );
    let page = town.page(&operator);
    let shell = page.get("/");
    assert!(shell.starts_with("HTTP/1.1 200") && shell.contains("content-security-policy"), "{shell}");
    is_secured(&both(&page.ask("edges")), "bank", "teller", "vault");
    is_secured(&both(&page.ask("connections")), "shop", "client", "web");
    // Each agent tells of all pods, and of those on its node whether it has captured them.
    let captured = |all: &[Value]| all.iter().filter(|workload| workload["state"] == "captured").count();
    let workloads = both(&page.ask("workloads"));
    assert_eq!(captured(&workloads), 4, "{workloads:#?}");
    let status = page.ask("status");
    for node in status.as_array().unwrap() {
        assert_eq!(
            (&node["answer"]["connections_open"], &node["answer"]["ready"]),
            (&json!(2), &json!(true))
        );
    }

    // The tenant.
    let secrets = town.secrets();
    let asked_by_operator = town.table(&operator, &["connections", "-o", "json"]);
    assert!(secrets.in_text(&asked_by_operator).is_some(), "what is looked for is told to who may see it");
    let verbs: [&[&str]; 9] = [
        &["edges"],
        &["connections"],
        &["status"],
        &["certs"],
        &["check"],
        &["stat"],
        &["stat", "--by", "edge"],
        &["top", "--looks", "1"],
        &["trace", "--last", "--from", &client, "--to", &web],
    ];
    for verb in verbs {
        for format in [&[][..], &["-o", "json"]] {
            if verb[0] == "top" && !format.is_empty() {
                continue;
            }
            let output = town.run(&tenant, &[verb, format].concat());
            let told = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
            assert!(output.status.success() && !told.is_empty(), "{verb:?}: {told}");
            assert_eq!(secrets.in_text(&told), None, "{verb:?} {format:?}: {told}");
        }
    }
    let edges = town.json(&tenant, &["edges"]);
    assert_eq!(edges.len(), 2, "{edges:#?}");
    is_secured(&edges, "shop", "client", "web");
    is_secured(&town.json(&tenant, &["connections"]), "shop", "client", "web");
    assert_eq!(requests(&tenant), counted("shop", 7));
    // Of others' he asks by name and learns nothing that he has not said.
    let last = ["trace", "--last", "--from", "bank/teller", "--to", "bank/vault"];
    let output = town.run(&tenant, &[&last[..], &["-o", "json"]].concat());
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), secrets.in_text(&told)), (Some(1), None), "{told}");
    let way =
        town.run(&tenant, &["trace", "--from", "bank/teller", "--to", &format!("{}:8080", town.vault.ip)]);
    assert_eq!((way.status.code(), way.stdout.len()), (Some(1), 0), "{way:?}");
    let page = town.page(&tenant);
    let questions = [
        "edges",
        "connections",
        "workloads",
        "services",
        "status",
        "certs",
        "check",
        "policies",
        "history",
        "requests?by=edge&seconds=60",
        "policy/selecting?workload=shop/web",
        "bpf",
        "metrics",
        "log",
        "recent",
        "tap",
    ];
    for question in questions {
        let answer = page.get(&format!("/api/v1/{question}"));
        assert_eq!(secrets.in_text(&answer), None, "{question}: {answer}");
    }
    is_secured(&both(&page.ask("edges")), "shop", "client", "web");
    let workloads = both(&page.ask("workloads"));
    assert!(workloads.iter().all(|workload| workload["namespace"] == "shop"), "{workloads:#?}");
    assert_eq!(captured(&workloads), 2, "{workloads:#?}");
}

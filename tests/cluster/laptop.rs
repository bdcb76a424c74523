//! People with a kubeconfig before a cluster of several controllers: the real command line, through the API server, by
//! port-forward or by way of a Service with a token.

use std::collections::BTreeSet;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use lark_apiserver::{Backend, objects};
use lark_core::observe::{Secured, Totals};
use lark_core::view::{
    BpfView, CertView, CheckView, ConnectionView, EdgeView, HistoryView, Party, RequestsView, SeriesView,
    Status, Verdict, WorkloadView,
};
use lark_identity::follow::Answers;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::rbac::{granted, granted_by_name};
use crate::replicas::{Agent, Controllers};
use crate::world::LIMIT;

/// May forward ports of Lark's pods.
const OPERATOR: (&str, &[(&str, &str)]) = ("operator", &[("get", "leases"), ("get", "pods/portforward")]);
/// May have the API server ask the controller's Service.
const BY_SERVICE: &[(&str, &str)] = &[("get", "services/proxy")];

/// An agent that tells of connections in and between `shop` and `bank`.
struct Tells(&'static str);

fn party(namespace: &str, account: &str) -> Party {
    Party {
        namespace: namespace.into(),
        name: format!("{account}-of-{namespace}-7d4").into(),
        owner: format!("Deployment/{account}").into(),
        identity: format!("spiffe://cluster.local/ns/{namespace}/sa/{account}").into(),
    }
}

fn edge(source: Party, destination: Party) -> EdgeView {
    EdgeView {
        direction: "outbound".to_owned(),
        secured: Secured::Denied,
        connections: 3,
        round_trip_seconds: None,
        retransmits: None,
        open: 1,
        sent_bytes: 10,
        received_bytes: 20,
        reason: Some("authorization_denied".to_owned()),
        detail: Some(format!("AuthorizationPolicy {}/secret-policy", destination.namespace)),
        source,
        destination,
    }
}

fn connection(source: Party, destination: Party) -> ConnectionView {
    ConnectionView {
        direction: "outbound".to_owned(),
        service: Some(format!("{}/front", destination.namespace)),
        source,
        destination,
        source_address: "10.0.1.1:40000".to_owned(),
        destination_address: "10.0.2.1:443".to_owned(),
        secured: Some(Secured::Mtls),
        sent_bytes: 1,
        received_bytes: 2,
        age_seconds: Some(3),
        note: String::new(),
        protocol: "http1".to_owned(),
        requests: 4,
        round_trip_seconds: None,
        retransmits: None,
    }
}

impl Answers for Tells {
    fn answer(&self, target: &str) -> (u16, Vec<u8>) {
        let (web, till, vault) = (party("shop", "web"), party("bank", "till"), party("bank", "vault"));
        let path = target.split('?').next().unwrap_or_default();
        let told = match path.strip_prefix("/v1/") {
            Some("edges") => {
                json!([edge(web.clone(), till.clone()), edge(till, vault), edge(web.clone(), web)])
            }
            Some("connections") => json!([connection(web, till.clone()), connection(till, vault)]),
            Some("workloads") => json!(["shop", "bank"].map(|namespace| WorkloadView {
                namespace: namespace.to_owned(),
                name: format!("pod-of-{namespace}"),
                owner: "Deployment/x".to_owned(),
                node: self.0.to_owned(),
                identity: String::new(),
                addresses: vec![],
                is_wanted: true,
                wanted: String::new(),
                state: "captured".to_owned(),
                why: String::new(),
                mtls: "permissive".to_owned(),
                mtls_by: "default".to_owned(),
            })),
            Some("certs") => json!([web, vault].map(|party| CertView {
                identity: party.identity.to_string(),
                state: "valid".to_owned(),
                expires_at: Some(4_000_000_000),
                serial: None,
                last_error: None,
            })),
            Some("check") => json!(["shop/web-1", "bank/vault-1", "discovery"].map(|subject| CheckView {
                subject: subject.to_owned(),
                verdict: Verdict::Ok,
                found: "captured".to_owned(),
                advice: String::new(),
            })),
            Some("requests") => json!([("shop", "bank"), ("bank", "bank")].map(|(source, destination)| {
                let mut view = RequestsView::of(&Totals::default(), 10.0);
                view.source_namespace = source.to_owned();
                view.destination_namespace = destination.to_owned();
                view
            })),
            Some("history") => json!(HistoryView {
                at: vec![1],
                series: ["", "shop", "bank"]
                    .map(|name| SeriesView { namespace: name.to_owned(), ..SeriesView::default() })
                    .into(),
            }),
            Some("bpf") => json!(BpfView::default()),
            Some("status") => json!(Status {
                version: "test".to_owned(),
                node: self.0.to_owned(),
                trust_domain: "cluster.local".to_owned(),
                ready: true,
                uptime_seconds: 60,
                workers: 2,
                records: String::new(),
                discovery_generation: 7,
                discovery_error: None,
                pods: vec![],
                connections_open: 4711,
                ca_url: String::new(),
                draining: vec![],
                withheld: false,
            }),
            _ => return (404, b"not found\n".to_vec()),
        };
        (200, told.to_string().into_bytes())
    }
}

/// Two controllers with an agent on node one; node two says nothing.
struct Laptop {
    controllers: Controllers,
    _agent: Agent,
    lark: PathBuf,
}

impl Laptop {
    async fn new() -> Self {
        let flags = ["--forward-listen", "127.0.0.1:0", "--status-listen", "127.0.0.1:0"];
        let mut controllers = Controllers::new(&flags).await;
        let server = &controllers.nodes.world.server;
        server.put(objects::namespace("bank", None));
        server.put(objects::pod("bank", "till-1", "till", "two", &["10.0.2.7"]));
        server.put(objects::service("lark-system", "lark-controller", "10.96.0.15", 15012));
        let (doors, turn) = (controllers.doors.clone(), AtomicUsize::new(0));
        server.reach(move |backend| {
            let doors = doors.lock().unwrap();
            let to = match backend {
                Backend::Pod { name, port: 15016 } => doors.get(name).and_then(|ways| ways[0]),
                Backend::Service { name, port } if name == "lark-controller" && port == "status" => {
                    // Any of them, as the API server does it.
                    let all: Vec<_> = doors.values().filter_map(|ways| ways[1]).collect();
                    all.get(turn.fetch_add(1, Ordering::SeqCst) % all.len().max(1)).copied()
                }
                _ => None,
            };
            TcpStream::connect(to.ok_or(io::ErrorKind::ConnectionRefused)?)
        });
        for name in ["r0", "r1"] {
            let pod = objects::pod("lark-system", name, "lark-controller", "one", &[]);
            controllers.nodes.world.server.put(pod);
            controllers.serves(name).await;
        }
        controllers.until("the root is published", |c| c.published().is_some()).await;
        let agent = controllers.agent_that(0, "one", Arc::new(Tells("one")));
        let lark = lark_testbed::lark_binary().unwrap();
        let laptop = Self { controllers, _agent: agent, lark };
        laptop.user(OPERATOR.0, OPERATOR.1);
        laptop
    }

    fn home(&self) -> &Path {
        self.controllers.nodes.world.home.path()
    }

    /// Knows a user whose token is his name, and has a kubeconfig for him.
    fn user(&self, name: &str, rights: &[(&str, &str)]) -> PathBuf {
        let server = &self.controllers.nodes.world.server;
        server.user(name, name, rights);
        server.kubeconfig_with(self.home(), &format!("{name}.conf"), &json!({ "token": name })).unwrap()
    }

    /// A process with nothing of this machine's own about clusters.
    fn command(&self, program: &Path, line: &[&str]) -> Command {
        let mut command = Command::new(program);
        for name in ["KUBECONFIG", "KUBERNETES_SERVICE_HOST", "LARK_CONTROLLER_SOCKET", "LARK_NAMESPACE"] {
            command.env_remove(name);
        }
        command.env("HOME", self.home().join("nobody")).args(line).kill_on_drop(true);
        command
    }

    /// `lark VERB --cluster` of a user.
    async fn run(&self, user: &str, verb: &[&str]) -> Output {
        let config = self.home().join(format!("{user}.conf"));
        let line = [verb, &["--cluster", "--kubeconfig", config.to_str().unwrap()]].concat();
        let ran = tokio::time::timeout(LIMIT, self.command(&self.lark, &line).output());
        ran.await.unwrap_or_else(|_| panic!("{line:?} does not end")).unwrap()
    }

    /// What it told, as JSON.
    async fn json(&self, user: &str, verb: &str) -> Value {
        let output = self.run(user, &[verb, "-o", "json"]).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{user} {verb}: {e}\n{output:?}"))
    }

    /// Runs it until node one's answer is in it.
    async fn heard(&self, user: &str, verb: &str) -> Value {
        let begin = Instant::now();
        loop {
            let told = self.json(user, verb).await;
            if !told[0]["answer"].is_null() {
                return told;
            }
            assert!(begin.elapsed() < LIMIT, "node one is not heard: {told}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// Verb, resource and name of what a user asked the API server for.
    fn asked(&self, user: &str) -> BTreeSet<(String, String, Option<String>)> {
        let requests = self.controllers.nodes.world.server.requests_of(user).into_keys();
        requests.map(|request| (request.verb.to_owned(), request.resource, request.name)).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn who_may_forward_ports_of_larks_pods_is_told_everything_whoever_leads() {
    let mut laptop = Laptop::new().await;
    let told = laptop.heard("operator", "edges").await;
    assert_eq!(told[0]["answer"].as_array().map(Vec::len), Some(3), "{told}");
    assert!(told[1]["missing"].as_str().unwrap().contains("does not follow this controller"), "{told}");
    let edges = laptop.run("operator", &["edges"]).await;
    assert!(edges.status.success());
    let (table, aside) = (text(&edges.stdout), text(&edges.stderr));
    assert!(table.contains("Deployment/vault") && table.contains("✗ two: "), "{table}");
    assert_eq!(aside, "lark: 1 of 2 nodes gave no answer: two\n");
    for verb in [&["status"][..], &["connections"], &["certs"], &["stat"], &["top", "--looks", "1"]] {
        let output = laptop.run("operator", verb).await;
        assert!(output.status.success() && text(&output.stdout).starts_with("NODE"), "{verb:?}: {output:?}");
    }
    // A node that says nothing is not known to be well.
    assert_eq!(laptop.run("operator", &["check"]).await.status.code(), Some(1));
    assert_eq!(laptop.heard("operator", "status").await[0]["answer"]["connections_open"], 4711);
    // It needs no right but these, and so no list of pods.
    let rights = laptop.asked("operator").into_iter().map(|(verb, resource, _)| (verb, resource));
    let of_operator = OPERATOR.1.iter().map(|(verb, resource)| ((*verb).to_owned(), (*resource).to_owned()));
    assert_eq!(rights.collect::<BTreeSet<_>>(), of_operator.collect());
    // kubectl finds it by its name.
    let plugin = laptop.home().join("kubectl-lark");
    std::os::unix::fs::symlink(&laptop.lark, &plugin).unwrap();
    let help = text(&laptop.command(&plugin, &["--help"]).output().await.unwrap().stdout);
    assert!(help.contains("Usage: kubectl lark <COMMAND>"), "{help}");
    let mut from_environment = laptop.command(&plugin, &["edges", "--cluster"]);
    from_environment.env("KUBECONFIG", laptop.home().join("operator.conf"));
    let edges = from_environment.output().await.unwrap();
    assert!(text(&edges.stdout).contains("Deployment/vault"), "{edges:?}");
    // Whoever leads is killed. Its Lease lasts on, and the pod that it names is gone.
    let leader = laptop.controllers.leader().unwrap();
    laptop.controllers.kill(&leader).await;
    let pod = objects::pod("lark-system", &leader, "lark-controller", "one", &[]);
    laptop.controllers.nodes.world.server.delete(&pod);
    let edges = laptop.run("operator", &["edges"]).await;
    assert!(edges.status.success(), "{edges:?}");
    assert_eq!(laptop.heard("operator", "edges").await[0], told[0]);
}

#[tokio::test]
async fn a_tenant_is_told_what_concerns_namespaces_in_which_he_may_get_pods_and_nothing_else() {
    let laptop = Laptop::new().await;
    let server = &laptop.controllers.nodes.world.server;
    laptop.heard("operator", "edges").await;
    for (name, namespaces) in [("ann", &["shop"][..]), ("root", &["*"]), ("eve", &[])] {
        laptop.user(name, BY_SERVICE);
        server.may_get_pods(name, namespaces);
    }
    // One end is his: of the other he is told what his own workload could know.
    let edges = laptop.json("ann", "edges").await;
    let [to_till, own] = edges[0]["answer"].as_array().unwrap().as_slice() else { panic!("{edges}") };
    assert_eq!(own["detail"], "AuthorizationPolicy shop/secret-policy");
    assert_eq!(to_till["reason"], "authorization_denied");
    assert!(to_till["detail"].is_null(), "{to_till}");
    assert_eq!(to_till["destination"]["name"], "Deployment/till");
    assert!(edges[1]["missing"].is_string(), "{edges}");
    let all = ["connections", "workloads", "certs", "check", "stat"];
    for verb in all.into_iter().filter(|verb| *verb != "workloads") {
        let told = laptop.json("ann", verb).await;
        let (answer, told) = (told[0]["answer"].as_array().map(Vec::len), told.to_string());
        assert_eq!(answer, Some(1), "{verb}: {told}");
        for secret in ["vault", "till-of-bank", "bank/front", "discovery"] {
            assert!(!told.contains(secret), "{verb} tells {secret}: {told}");
        }
    }
    let status = laptop.run("ann", &["status"]).await;
    let status = text(&status.stdout);
    assert!(status.contains("one") && !status.contains("4711"), "{status}");
    // Who may get pods everywhere is told everything, by the same way.
    assert_eq!(laptop.json("root", "edges").await[0]["answer"].as_array().map(Vec::len), Some(3));
    assert_eq!(laptop.json("root", "status").await[0]["answer"]["connections_open"], 4711);
    let blind = laptop.run("eve", &["edges"]).await;
    assert!(text(&blind.stderr).contains("eve may get pods in no namespace"), "{blind:?}");
    assert_eq!((blind.status.code(), blind.stdout.len()), (Some(1), 0));
    // What the API cannot say he may not see: it is asked until it can.
    laptop.user("late", BY_SERVICE);
    server.may_get_pods("late", &["shop"]);
    server.refuse("subjectaccessreviews", 500, "InternalError", 3);
    assert_eq!(laptop.json("late", "connections").await[0]["answer"].as_array().map(Vec::len), Some(1));

    let of = |resource: &'static str| move |asked: &(String, String, Option<String>)| asked.1 == resource;
    let proxied = laptop.asked("ann").into_iter().filter(of("services/proxy"));
    let proxied = proxied.map(|(verb, resource, name)| ((verb, String::new(), resource), name)).collect();
    assert_eq!(granted_by_name("lark-tenant"), proxied);
    let reviews = server.requests().into_keys().filter(|request| request.resource.ends_with("reviews"));
    let reviews: BTreeSet<_> = reviews.map(|r| (r.verb.to_owned(), r.group, r.resource)).collect();
    let rights: BTreeSet<_> =
        granted("lark-token-review").into_iter().chain(granted("lark-access-review")).collect();
    assert_eq!(reviews, rights);
}

#[tokio::test]
async fn the_page_shows_a_tenant_what_he_may_see() {
    let laptop = Laptop::new().await;
    laptop.heard("operator", "edges").await;
    let config = laptop.user("ann", BY_SERVICE);
    laptop.controllers.nodes.world.server.may_get_pods("ann", &["shop"]);
    let line = ["dashboard", "--cluster", "--kubeconfig", config.to_str().unwrap()];
    let mut page = laptop.command(&laptop.lark, &line).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(page.stdout.take().unwrap()).lines();
    let first = tokio::time::timeout(LIMIT, lines.next_line()).await.unwrap().unwrap().unwrap();
    let (address, secret) = first.split_once("http://").unwrap().1.split_once("/#").unwrap();
    let ask = async |question: &str| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET /api/v1/{question} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {secret}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    };
    for question in ["edges", "connections", "workloads", "status", "check", "certs", "history"] {
        let answer = ask(question).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"node\":\"one\""), "{answer}");
        for secret in ["vault", "till-of-bank", "pod-of-bank", "4711"] {
            assert!(!answer.contains(secret), "{question} tells {secret}: {answer}");
        }
    }
    assert!(ask("workloads").await.contains("pod-of-shop"));
    let refused = ask("bpf").await;
    assert!(refused.contains("502") && refused.contains("who may get pods in all namespaces"), "{refused}");
}

#[tokio::test]
async fn who_gets_no_answer_is_told_why_and_what_to_do() {
    let laptop = Laptop::new().await;
    let (none, operator) = (laptop.user("none", &[]), laptop.home().join("operator.conf"));
    let server = &laptop.controllers.nodes.world.server;
    let stranger = json!({ "token": "of-another-cluster" });
    let stranger = server.kubeconfig_with(laptop.home(), "stranger.conf", &stranger).unwrap();
    let (none, operator, stranger) =
        (none.to_str().unwrap(), operator.to_str().unwrap(), stranger.to_str().unwrap());
    let cases: [(&[&str], &str); 6] = [
        (&[], "There is no kubeconfig"),
        (&["--kubeconfig", "/nowhere/config"], "kubeconfig /nowhere/config cannot be used"),
        (&["--kubeconfig", operator, "--context", "other"], "failed to load current context: other"),
        (&["--kubeconfig", operator, "--lark-namespace", "mesh"], "controller is not in namespace mesh"),
        (&["--kubeconfig", none], "you may ask Lark in namespace lark-system in neither way"),
        (&["--kubeconfig", stranger], "log in to the cluster again"),
    ];
    for (flags, expected) in cases {
        let line = [&["edges", "--cluster"], flags].concat();
        let output = laptop.command(&laptop.lark, &line).output().await.unwrap();
        let said = text(&output.stderr);
        assert!(said.contains(expected), "{flags:?}: {said}");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{flags:?}");
    }
}

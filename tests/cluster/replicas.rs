//! Several controllers of one cluster, before agents that ask whichever a Service gives them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use lark::cli::{Cli, Command};
use lark::controller::Controller;
use lark_apiserver::objects;
use lark_core::identity::SpiffeId;
use lark_core::rotation::RootId;
use lark_identity::client::{CaClient, Issuer, RequestError};
use lark_identity::credential::Credentials;
use lark_identity::follow::{Answers, Follower};
use lark_identity::roots::RootFiles;
use lark_identity::verify::{Usage, verify_chain};
use lark_identity::{SvidStore, TrustBundle};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer as Signer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::rbac::{asked_by_name, granted_by_name};
use crate::reviews::{AGENT, Nodes, csr, id};
use crate::world::LIMIT;

/// Seconds of the Lease: short, since a test waits for it after each kill.
const LEASE: &str = "3";

/// Addresses of the replicas that run, by their names.
type Endpoints = Arc<Mutex<BTreeMap<String, SocketAddr>>>;

/// Where people ask them, by their names: at a forwarded port, and behind the Service.
pub(crate) type Doors = Arc<Mutex<BTreeMap<String, [Option<SocketAddr>; 2]>>>;

/// What kube-proxy does for the Service: each connection goes to one that runs, or to one that has just died.
async fn service(endpoints: Endpoints) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for turn in 0.. {
            let (mut client, _) = listener.accept().await.unwrap();
            let all: Vec<SocketAddr> = endpoints.lock().unwrap().values().copied().collect();
            tokio::spawn(async move {
                let Some(to) = all.get(turn % all.len().max(1)) else { return };
                if let Ok(mut server) = TcpStream::connect(to).await {
                    let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    address
}

/// A replica on a runtime of its own, so that all of it ends when it is killed.
struct Replica {
    kill: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

pub(crate) struct Controllers {
    pub(crate) nodes: Nodes,
    endpoints: Endpoints,
    pub(crate) doors: Doors,
    service: SocketAddr,
    running: BTreeMap<String, Replica>,
    more: Vec<String>,
}

impl Controllers {
    pub(crate) async fn new(more: &[&str]) -> Self {
        let endpoints = Endpoints::default();
        let service = service(endpoints.clone()).await;
        let more = more.iter().map(|&flag| flag.to_owned()).collect();
        let doors = Doors::default();
        Self { nodes: Nodes::new().await, endpoints, doors, service, running: BTreeMap::new(), more }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.nodes.world.home.path().join(name)
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.sock"))
    }

    /// Starts a replica; what it is awaited by.
    fn start(&mut self, name: &str) -> oneshot::Receiver<Result<SocketAddr, String>> {
        let config = self.nodes.world.server.kubeconfig(self.nodes.world.home.path()).unwrap();
        let (discovery, socket) = (format!("kubernetes:{}", config.display()), self.socket(name));
        let mut line = vec!["lark", "controller", "--discovery", &discovery];
        line.extend(["--agent-account", "lark-system/lark-agent", "--state-namespace", "lark-system"]);
        line.extend(["--replica", name, "--replica-address", "127.0.0.1", "--lease-seconds", LEASE]);
        line.extend(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--san", "127.0.0.1"]);
        line.extend(["--controller-socket", socket.to_str().unwrap()]);
        line.extend(self.more.iter().map(String::as_str));
        let Command::Controller(args) = Cli::try_parse_from(line).unwrap().command else { panic!() };
        let (tell, told) = oneshot::channel();
        let (kill, killed) = oneshot::channel::<()>();
        let (endpoints, doors, own) = (self.endpoints.clone(), self.doors.clone(), name.to_owned());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let serve = async {
                    let controller = match Controller::start(&args).await {
                        Ok(controller) => controller,
                        Err(error) => return drop(tell.send(Err(format!("{error:#}")))),
                    };
                    let address = controller.address().unwrap();
                    let ways = [controller.forward_address(), controller.status_address()];
                    doors.lock().unwrap().insert(own.clone(), ways);
                    endpoints.lock().unwrap().insert(own, address);
                    let _ = tell.send(Ok(address));
                    controller.run_until(std::future::pending()).await.unwrap();
                };
                tokio::select! {
                    () = serve => {}
                    _ = killed => {}
                }
            });
        });
        self.running.insert(name.to_owned(), Replica { kill, thread });
        told
    }

    pub(crate) async fn serves(&mut self, name: &str) {
        let told = self.start(name);
        tokio::time::timeout(LIMIT, told).await.unwrap().unwrap().unwrap();
    }

    /// Nothing is finished, nobody is told; its endpoint goes a moment later, as in a cluster.
    pub(crate) async fn kill(&mut self, name: &str) {
        let Replica { kill, thread } = self.running.remove(name).unwrap();
        let _ = kill.send(());
        tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
        self.endpoints.lock().unwrap().remove(name);
        self.doors.lock().unwrap().remove(name);
    }

    fn object(&self, group: &str, plural: &str, name: &str) -> Option<Value> {
        self.nodes.world.server.find(group, plural, "lark-system", name)
    }

    pub(crate) fn leader(&self) -> Option<String> {
        let lease = self.object("coordination.k8s.io", "leases", "lark-controller")?;
        lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
    }

    /// Names of what the Secret has.
    fn kept(&self) -> BTreeSet<String> {
        let secret = self.object("", "secrets", "lark-roots").unwrap_or_default();
        secret["data"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    /// The phase of the rotation, as it is kept.
    fn phase(&self) -> String {
        let secret = self.object("", "secrets", "lark-roots").unwrap_or_default();
        let state = secret["data"]["state.json"].as_str().unwrap_or_default();
        let state = data_encoding::BASE64.decode(state.as_bytes()).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap_or_default();
        state["phase"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn published(&self) -> Option<String> {
        let map = self.object("", "configmaps", "lark-root")?;
        map["data"]["root.pem"].as_str().map(str::to_owned)
    }

    pub(crate) async fn until(&self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !so(self) {
            assert!(begin.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// An agent that has the published root and the token of its pod.
    fn agent(&self, number: usize, node: &str, accounts: &[&str]) -> Agent {
        Agent::start(self.client(number, node), accounts, Arc::new(Silent))
    }

    /// One that tells this to whoever asks the whole cluster.
    pub(crate) fn agent_that(&self, number: usize, node: &str, tells: Arc<dyn Answers>) -> Agent {
        Agent::start(self.client(number, node), &[], tells)
    }

    fn client(&self, number: usize, node: &str) -> CaClient {
        let token = objects::review(AGENT, &["lark-ca"], Some(node), &self.nodes.agents[number]);
        let token = self.nodes.token(node, token);
        let first = self.path(&format!("{node}.pem"));
        std::fs::write(&first, self.published().unwrap()).unwrap();
        let state = self.path(&format!("state-{node}"));
        CaClient {
            url: format!("https://{}", self.service),
            roots: RootFiles::learning(first, state.join("roots.json")),
            credentials: Credentials::token_only(token),
        }
    }

    /// `lark ca rotate` in the pod of whoever leads.
    async fn rotate(&self, flags: &[&str]) {
        for _ in 0..600 {
            if let Some(leader) = self.leader() {
                let socket = self.socket(&leader);
                let line = ["lark", "ca", "rotate", "--no-wait", "--controller-socket"];
                let line = line.into_iter().chain([socket.to_str().unwrap()]).chain(flags.iter().copied());
                let command = Cli::try_parse_from(line).unwrap().command;
                if lark::cli::run(command).await.is_ok() {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no replica takes `lark ca rotate` {flags:?}");
    }
}

/// Has nothing to tell to whoever asks the whole cluster.
struct Silent;

impl Answers for Silent {
    fn answer(&self, _: &str) -> (u16, Vec<u8>) {
        (503, b"nothing to tell".to_vec())
    }
}

/// What an agent does about its identities.
pub(crate) struct Agent {
    client: CaClient,
    store: SvidStore,
    accounts: Vec<String>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Agent {
    fn start(client: CaClient, accounts: &[&str], tells: Arc<dyn Answers>) -> Self {
        let store = SvidStore::new(client.roots.read().unwrap(), Arc::new(SystemTime::now));
        store.want(accounts.iter().map(|account| id(account)).collect());
        let tasks = vec![
            tokio::spawn(store.clone().renew(Arc::new(client.clone()))),
            tokio::spawn(Follower::new(client.clone(), "test", tells).run(store.clone())),
        ];
        Self { client, store, accounts: accounts.iter().map(|&a| a.to_owned()).collect(), tasks }
    }

    fn is_supplied(&self) -> bool {
        self.accounts.iter().all(|account| self.store.valid(&id(account)).is_some())
    }

    /// Why it would refuse a certificate, if it would.
    fn refuses(&self, chain: &[CertificateDer<'static>], owner: &SpiffeId) -> Option<String> {
        let (leaf, between) = chain.split_first()?;
        match verify_chain(leaf, between, &self.store.bundle(), SystemTime::now(), Usage::Server) {
            Ok(proved) if proved == *owner => None,
            Ok(proved) => Some(format!("it is of {proved}")),
            Err(why) => Some(why.to_string()),
        }
    }
}

/// Looks all the time whether each would take the others' certificates.
async fn watch(agents: &[&Agent]) -> String {
    loop {
        for (one, other) in agents.iter().flat_map(|one| agents.iter().map(move |other| (one, other))) {
            for svid in other.accounts.iter().filter_map(|account| other.store.valid(&id(account))) {
                if let Some(why) = one.refuses(&svid.certified.cert, &svid.id) {
                    return format!("{}: {why}", svid.id);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks until it gets a certificate, as agents do, and returns it.
async fn issued(agent: &Agent, account: &str) -> Vec<CertificateDer<'static>> {
    let begin = Instant::now();
    loop {
        match agent.client.issue(csr(), &id(account), Duration::from_secs(3600)).await {
            Ok(chain) => {
                return chain
                    .iter()
                    .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
                    .collect();
            }
            Err(error) => {
                let passes = matches!(error, RequestError::Unreachable { .. } | RequestError::NotNow { .. });
                assert!(passes, "{account}: {error}");
                assert!(begin.elapsed() < LIMIT, "{account} has no certificate after {LIMIT:?}: {error}");
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Some number below `bound`, another one in each run.
fn any(bound: usize) -> usize {
    use std::hash::{BuildHasher, Hasher};
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    usize::try_from(random % u64::try_from(bound).unwrap()).unwrap()
}

#[tokio::test]
async fn leaders_killed_during_two_hundred_issuances_and_a_rotation_issue_nothing_wrong_and_lose_nothing() {
    let mut controllers = Controllers::new(&[]).await;
    // Both begin with nothing, at once: one of them makes the CA.
    let both = [controllers.start("r0"), controllers.start("r1")];
    for told in both {
        tokio::time::timeout(LIMIT, told).await.unwrap().unwrap().unwrap();
    }
    controllers.until("the root is published", |c| c.published().is_some()).await;
    let old = TrustBundle::from_pem(controllers.published().unwrap().as_bytes()).unwrap().ids().to_vec();
    assert_eq!(old.len(), 1);
    assert_eq!(controllers.kept().len(), 3, "{:?}", controllers.kept());

    let agents = [controllers.agent(0, "one", &["web"]), controllers.agent(1, "two", &["db"])];
    let [one, two] = &agents;
    controllers.until("both have certificates", |_| one.is_supplied() && two.is_supplied()).await;
    let (mut seen, mut issues, mut kills, mut slowest) = (BTreeSet::new(), 0, 0, Duration::ZERO);
    let mut killed_at: Vec<usize> = (0..4).map(|part| 10 + part * 45 + any(45)).collect();
    let work = async {
        controllers.rotate(&[]).await;
        while issues < 200 || kills < 3 || controllers.phase() != "steady" {
            seen.extend(controllers.kept().into_iter().filter(|name| name.ends_with(".pem")));
            // Who was killed leads by its Lease for a while; then it is the next one's turn.
            let leader = controllers.leader().filter(|name| controllers.running.contains_key(name));
            if let Some(leader) = leader.filter(|_| killed_at.first().is_some_and(|at| issues >= *at)) {
                killed_at.remove(0);
                controllers.kill(&leader).await;
                kills += 1;
                // Its Deployment replaces it. Nobody waits for that.
                drop(controllers.start(&format!("r{}", 1 + kills)));
            }
            let (agent, account, not_its_own) =
                if issues % 2 == 0 { (one, "web", "db") } else { (two, "db", "web") };
            let begin = Instant::now();
            let chain = issued(agent, account).await;
            slowest = slowest.max(begin.elapsed());
            issues += 1;
            for verifier in &agents {
                assert_eq!(verifier.refuses(&chain, &id(account)), None, "issue {issues}");
            }
            let wrong = agent.client.issue(csr(), &id(not_its_own), Duration::from_secs(60)).await;
            assert!(wrong.is_err(), "{not_its_own} was issued to the other node");
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    };
    let all = [one, two];
    tokio::select! {
        () = work => {}
        why = watch(&all) => panic!("refused: {why}"),
    }
    assert!(slowest < LIMIT / 2, "a request took {slowest:?}");
    assert_eq!(seen.len(), 2, "roots were made by a race: {seen:?}");
    // The old root is gone everywhere, with its key.
    controllers
        .until("the new root alone is published", |c| {
            let pem = c.published().unwrap_or_default();
            TrustBundle::from_pem(pem.as_bytes())
                .is_ok_and(|bundle| bundle.ids().len() == 1 && bundle.ids() != old)
        })
        .await;
    let new = TrustBundle::from_pem(controllers.published().unwrap().as_bytes()).unwrap().ids().to_vec();
    let holds = |agent: &Agent, roots: &[RootId]| agent.store.bundle().ids() == roots;
    controllers.until("agents trust it alone", |_| holds(one, &new) && holds(two, &new)).await;
    assert_eq!(controllers.kept().len(), 3, "{:?}", controllers.kept());
    // What was asked for is what the Role grants, by name where that is possible.
    let asked = asked_by_name(&controllers.nodes.world.server, &["secrets", "configmaps", "leases"]);
    assert_eq!(asked, granted_by_name("lark-controller"));
}

#[tokio::test]
async fn a_secret_that_is_deleted_is_put_back_and_none_is_made_beside_a_root_that_agents_may_trust() {
    let mut controllers = Controllers::new(&[]).await;
    controllers.serves("r0").await;
    controllers.until("the root is published", |c| c.published().is_some()).await;
    let secret = controllers.object("", "secrets", "lark-roots").unwrap();
    controllers.nodes.world.server.delete(&secret);
    controllers.until("it is back", |c| !c.kept().is_empty()).await;
    assert_eq!(controllers.object("", "secrets", "lark-roots").unwrap()["data"], secret["data"]);
    // Nobody holds it any more.
    controllers.kill("r0").await;
    controllers.nodes.world.server.delete(&secret);
    let told = controllers.start("r1");
    let error = tokio::time::timeout(LIMIT, told).await.unwrap().unwrap().unwrap_err();
    assert!(error.contains("Secret lark-roots is missing while ConfigMap lark-root names a root"), "{error}");
    assert!(controllers.kept().is_empty());
}

/// A CA as cert-manager puts it into a Secret: an intermediate, and its root apart.
fn given(root: &Signer<'static, KeyPair>, root_pem: &str) -> Value {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let pem = params("an intermediate").signed_by(&key, root).unwrap().pem();
    let base64 = |text: &str| json!(data_encoding::BASE64.encode(text.as_bytes()));
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": { "name": "mesh-ca", "namespace": "lark-system" },
        "data": { "tls.crt": base64(&pem), "tls.key": base64(&key.serialize_pem()), "ca.crt": base64(root_pem) }
    })
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params
}

fn root(name: &str) -> (Signer<'static, KeyPair>, String) {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let params = params(name);
    let pem = params.self_signed(&key).unwrap().pem();
    (Signer::new(params, key), pem)
}

#[tokio::test]
async fn a_ca_that_cert_manager_owns_issues_by_every_replica_and_another_root_begins_a_rotation() {
    let mut controllers = Controllers::new(&["--ca-secret", "mesh-ca"]).await;
    let ((first, first_pem), (second, second_pem)) = (root("first"), root("second"));
    controllers.nodes.world.server.put(given(&first, &first_pem));
    controllers.serves("r0").await;
    controllers.serves("r1").await;
    controllers.until("the root is published", |c| c.published().is_some()).await;
    let ids = |pem: &str| TrustBundle::from_pem(pem.as_bytes()).unwrap().ids().to_vec();
    assert_eq!(ids(&controllers.published().unwrap()), ids(&first_pem));
    assert!(!controllers.kept().iter().any(|name| name.ends_with(".key")), "its key is kept where it is");
    let agent = controllers.agent(0, "one", &["web"]);
    controllers.until("it has a certificate", |_| agent.is_supplied()).await;
    // By either replica, in turn.
    for _ in 0..4 {
        let chain = issued(&agent, "web").await;
        assert_eq!(chain.len(), 3);
        assert_eq!(agent.refuses(&chain, &id("web")), None);
    }
    controllers.nodes.world.server.put(given(&second, &second_pem));
    controllers.until("a rotation has begun", |c| c.phase() == "trust").await;
    // What every node trusts lasts until nobody needs it.
    assert_eq!(controllers.kept().iter().filter(|name| name.ends_with(".key")).count(), 1);
    let both = [ids(&second_pem), ids(&first_pem)].concat();
    controllers.until("both roots are published", |c| ids(&c.published().unwrap()) == both).await;
    let trusts = |agent: &Agent| agent.store.bundle().ids().to_vec();
    controllers.until("the agent trusts both", |_| trusts(&agent) == both).await;
    // Node two has no agent: the old one issues still.
    let chain = issued(&agent, "web").await;
    assert_eq!(chain.last().unwrap(), &CertificateDer::from_pem_slice(first_pem.as_bytes()).unwrap());
}

#[tokio::test]
async fn a_rotation_to_somebody_elses_root_that_is_taken_back_begins_again_by_a_person_alone() {
    let mut controllers = Controllers::new(&["--ca-secret", "mesh-ca"]).await;
    let ((first, first_pem), (second, second_pem)) = (root("first"), root("second"));
    controllers.nodes.world.server.put(given(&first, &first_pem));
    controllers.serves("r0").await;
    controllers.until("the root is published", |c| c.published().is_some()).await;
    let ids = |pem: &str| TrustBundle::from_pem(pem.as_bytes()).unwrap().ids().to_vec();
    let (before, after) = (ids(&first_pem), ids(&second_pem));
    let agents = [controllers.agent(0, "one", &["web"]), controllers.agent(1, "two", &["db"])];
    let all_of = |root: &[RootId]| agents.iter().all(|agent| agent.store.holdings().svids == root);
    controllers.until("both have certificates", |_| all_of(&before)).await;
    controllers.nodes.world.server.put(given(&second, &second_pem));
    controllers.until("certificates hang from the second root", |_| all_of(&after)).await;
    controllers.rotate(&["--abort"]).await;
    controllers.until("it is taken back", |c| c.phase() == "steady").await;
    // The second one is in the Secret still, and who leads next has not heard of what was said to the first.
    controllers.serves("r1").await;
    controllers.kill("r0").await;
    controllers.until("the other one leads", |c| c.leader().as_deref() == Some("r1")).await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!((controllers.phase().as_str(), all_of(&before)), ("steady", true));
    }
    controllers.rotate(&[]).await;
    controllers.until("certificates hang from the second root again", |_| all_of(&after)).await;
}

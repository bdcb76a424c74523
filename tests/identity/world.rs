//! A controller with its files in a directory of its own, and clients of it.

use std::net::SocketAddr;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use clap::Parser;
use lark::cli::{Cli, Command};
use lark::controller::{Controller, ControllerArgs};
use lark_core::identity::SpiffeId;
use lark_identity::TrustBundle;
use lark_identity::client::CaClient;
use lark_identity::credential::Credentials;
use lark_identity::roots::RootFiles;
use lark_identity::service::CaService;
use lark_identity::token;
use rcgen::{CertificateParams, KeyPair, SanType};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// `web` and `api` run on node one, `db` on node two.
pub(crate) const MESH: &str = "\
mesh: { trustDomain: cluster.local }
nodes:
  - { name: one, addresses: [192.168.0.1] }
  - { name: two, addresses: [192.168.0.2] }
workloads:
  - { namespace: shop, name: web-1, account: web, node: one, addresses: [10.0.1.1] }
  - { namespace: shop, name: api-1, account: api, node: one, addresses: [10.0.1.2] }
  - { namespace: shop, name: db-1, account: db, node: two, addresses: [10.0.2.1] }
";

pub(crate) fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

/// A request with these names, by a P-256 key.
pub(crate) fn csr(names: Vec<SanType>) -> String {
    csr_by(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(), names)
}

pub(crate) fn csr_by(key: &KeyPair, names: Vec<SanType>) -> String {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.serialize_request(key).unwrap().pem().unwrap()
}

/// Files of a controller: `mesh.yaml`, `tokens`, `one.token`, `two.token`, `data/`.
pub(crate) struct World {
    pub(crate) home: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("mesh.yaml"), MESH).unwrap();
        let mut lines = String::new();
        for node in ["one", "two"] {
            let made = token::generate(SystemTime::now() + Duration::from_secs(3600)).unwrap();
            let secret = made.secret.as_str();
            std::fs::write(home.path().join(format!("{node}.token")), format!("{secret}\n")).unwrap();
            lines += &format!("{node} {}\n", made.line);
        }
        std::fs::write(home.path().join("tokens"), lines).unwrap();
        Self { home }
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    /// The flags as an operator gives them, `more` after the usual ones.
    pub(crate) fn args(&self, listen: &str, more: &[&str]) -> ControllerArgs {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let discovery = format!("file:{}", text(&self.path("mesh.yaml")));
        let (data, tokens) = (text(&self.path("data")), text(&self.path("tokens")));
        let socket = text(&self.path("controller.sock"));
        let mut line = vec!["lark", "controller", "--discovery", &discovery, "--data-dir", &data];
        line.extend(["--join-tokens", &tokens, "--listen", listen]);
        line.extend(["--controller-socket", &socket, "--metrics-listen", "127.0.0.1:0"]);
        line.extend(more);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Controller(args) => args,
            other => panic!("{other:?} is no controller"),
        }
    }

    pub(crate) async fn serve(&self) -> Running {
        self.serve_with(&self.args("127.0.0.1:0", &[])).await
    }

    /// Another one after one that was killed, where that was.
    pub(crate) async fn serve_at(&self, address: SocketAddr) -> Running {
        self.serve_with(&self.args(&address.to_string(), &[])).await
    }

    /// It has a runtime of its own, so that all of it ends when it is killed.
    pub(crate) async fn serve_with(&self, args: &ControllerArgs) -> Running {
        let (args, dispatch) = (args.clone(), tracing::dispatcher::get_default(Clone::clone));
        let (tell, told) = oneshot::channel();
        let (stop, mut stopped) = oneshot::channel::<Stop>();
        let thread = std::thread::spawn(move || {
            let _logs = tracing::dispatcher::set_default(&dispatch);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let controller = Controller::start(&args).await.unwrap();
                let (address, metrics) =
                    (controller.address().unwrap(), controller.metrics_address().unwrap());
                let _ = tell.send((address, metrics, controller.service().clone()));
                let (end, ended) = oneshot::channel::<()>();
                let running = controller.run_until(async {
                    let _ = ended.await;
                });
                tokio::pin!(running);
                tokio::select! {
                    result = &mut running => return result.unwrap(),
                    // A dropped sender stops it in order too.
                    how = &mut stopped => if let Ok(Stop::Kill) = how { return },
                }
                drop(end);
                running.await.unwrap();
            });
        });
        let (address, metrics, service) = told.await.unwrap();
        Running { address, metrics, service, stop, thread }
    }

    /// A client with a node's token and the published root.
    pub(crate) fn client(&self, node: &str, address: SocketAddr) -> CaClient {
        CaClient {
            url: format!("https://{address}"),
            roots: RootFiles::file_only(self.path("data/root.pem")),
            credentials: Credentials::token_only(self.path(&format!("{node}.token"))),
        }
    }

    /// A client that keeps what it learns, beginning with a copy of the root as it is now.
    pub(crate) fn agent(&self, node: &str, address: SocketAddr) -> CaClient {
        let (first, state) = (self.path(&format!("{node}.pem")), self.path(&format!("state-{node}")));
        if !first.exists() {
            std::fs::copy(self.path("data/root.pem"), &first).unwrap();
        }
        let token = self.path(&format!("{node}.token"));
        CaClient {
            url: format!("https://{address}"),
            roots: RootFiles::learning(first, state.join("roots.json")),
            credentials: Credentials::kept_in(token, state.join("credential")),
        }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::from_pem(&std::fs::read(self.path("data/root.pem")).unwrap()).unwrap()
    }
}

#[derive(Debug)]
enum Stop {
    InOrder,
    Kill,
}

/// A controller that answers, until it is stopped or dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) service: CaService,
    stop: oneshot::Sender<Stop>,
    thread: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.end(Stop::InOrder).await;
    }

    /// Nothing is finished, nobody is told.
    pub(crate) async fn kill(self) {
        self.end(Stop::Kill).await;
    }

    async fn end(self, how: Stop) {
        let _ = self.stop.send(how);
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap();
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let begin = SystemTime::now();
    while !so().await {
        assert!(begin.elapsed().unwrap_or_default() < Duration::from_secs(60), "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

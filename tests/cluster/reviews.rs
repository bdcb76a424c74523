//! Agents of a cluster before the controller: whose token is taken, and for what.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use lark::cli::{Cli, Command};
use lark::controller::Controller;
use lark_apiserver::objects;
use lark_core::identity::SpiffeId;
use lark_identity::client::{CaClient, Issuer, RequestError};
use lark_identity::credential::Credentials;
use lark_identity::roots::RootFiles;
use lark_identity::service::CaService;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::rbac::{asked, granted};
use crate::world::{LIMIT, World};

pub(crate) const AGENT: &str = "system:serviceaccount:lark-system:lark-agent";

pub(crate) fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

pub(crate) fn csr() -> String {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
}

/// A shop with an agent's pod on each node, and `web` on node one.
pub(crate) struct Nodes {
    pub(crate) world: World,
    pub(crate) agents: [Value; 2],
}

impl Nodes {
    pub(crate) async fn new() -> Self {
        let world = World::shop().await;
        world.server.put(objects::namespace("lark-system", None));
        let agents = [("one", "192.168.0.1"), ("two", "192.168.0.2")].map(|(node, address)| {
            let mut pod =
                objects::pod("lark-system", &format!("agent-{node}"), "lark-agent", node, &[address]);
            pod["spec"]["hostNetwork"] = json!(true);
            world.server.put(pod)
        });
        world.server.put(objects::pod("shop", "web-1", "web", "one", &["10.0.1.1"]));
        Self { world, agents }
    }

    /// The API server takes this token as the answer says.
    pub(crate) fn token(&self, name: &str, status: Value) -> PathBuf {
        let path = self.world.home.path().join(name);
        std::fs::write(&path, format!("token-{name}\n")).unwrap();
        self.world.server.know_token(&format!("token-{name}"), status);
        path
    }

    /// Runs `work` beside a controller that asks the API about tokens.
    async fn with_controller(&self, work: impl AsyncFnOnce(SocketAddr, CaService)) {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let home = self.world.home.path();
        let config = text(self.world.server.kubeconfig(home).unwrap());
        let (data, socket) = (text(home.join("data")), text(home.join("controller.sock")));
        let line = ["lark", "controller", "--discovery", &format!("kubernetes:{config}")];
        let more = ["--agent-account", "lark-system/lark-agent", "--data-dir", &data];
        let rest = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
        let last = ["--controller-socket", &socket];
        let line = line.into_iter().chain(more).chain(rest).chain(last);
        let Command::Controller(args) = Cli::try_parse_from(line).unwrap().command else {
            panic!("no controller")
        };
        let controller = tokio::time::timeout(LIMIT, Controller::start(&args)).await.unwrap().unwrap();
        let (address, service) = (controller.address().unwrap(), controller.service().clone());
        let (end, ended) = oneshot::channel::<()>();
        let run = controller.run_until(async {
            let _ended = ended.await;
        });
        let work = async {
            work(address, service).await;
            drop(end);
        };
        let (run, ()) = tokio::join!(run, work);
        run.unwrap();
    }

    fn client(&self, address: SocketAddr, token: PathBuf) -> CaClient {
        CaClient {
            url: format!("https://{address}"),
            roots: RootFiles::file_only(self.world.home.path().join("data/root.pem")),
            credentials: Credentials::token_only(token),
        }
    }
}

async fn ask(client: &CaClient, account: &str) -> Result<Vec<String>, RequestError> {
    client.issue(csr(), &id(account), Duration::from_secs(3600)).await
}

#[tokio::test]
async fn an_agent_gets_identities_of_live_pods_on_its_own_pods_node_and_no_others() {
    let nodes = Nodes::new().await;
    let [one, two] = &nodes.agents;
    let one = nodes.token("one", objects::review(AGENT, &["lark-ca"], Some("one"), one));
    let two = nodes.token("two", objects::review(AGENT, &["lark-ca"], Some("two"), two));
    nodes
        .with_controller(async |address, service| {
            let (one, two) = (nodes.client(address, one), nodes.client(address, two));
            ask(&one, "web").await.unwrap();
            ask(&two, "db").await.unwrap();
            for (client, account) in [(&one, "db"), (&two, "web"), (&one, "nobody")] {
                let error = ask(client, account).await.unwrap_err();
                assert!(matches!(error, RequestError::Denied { .. }), "{account}: {error}");
            }
            // A pod that has ended has no identity any more.
            let mut web = objects::pod("shop", "web-1", "web", "one", &["10.0.1.1"]);
            web["status"]["phase"] = json!("Succeeded");
            nodes.world.server.put(web);
            while ask(&one, "web").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // An agent whose pod is gone is nobody, whatever was said of its token before.
            nodes.world.server.delete(&nodes.agents[1]);
            while ask(&two, "db").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(service.refused()["token_pod_unknown"] > 0, "{:?}", service.refused());
            let reviews = nodes.world.server.requests();
            let asked: usize =
                reviews.iter().filter(|(r, _)| r.resource == "tokenreviews").map(|(_, n)| n).sum();
            assert_eq!(asked, 2, "one question a token");
        })
        .await;
    let rights = granted("lark-discovery").into_iter().chain(granted("lark-token-review")).collect();
    assert_eq!(asked(&nodes.world.server), rights);
}

#[tokio::test]
async fn a_token_that_is_not_an_agents_is_refused_for_its_reason() {
    let nodes = Nodes::new().await;
    let [one, two] = &nodes.agents;
    let gone = json!({ "metadata": { "name": "agent-x", "uid": "00000000-0000-4000-8000-0000000000ff" } });
    let cases = [
        (
            "audience",
            objects::review(AGENT, &["https://kubernetes.default.svc"], Some("one"), one),
            "token_reviewed",
        ),
        ("no-audience", objects::review(AGENT, &[], Some("one"), one), "token_reviewed"),
        ("expired", json!({ "authenticated": false, "error": "token has expired" }), "token_reviewed"),
        (
            "account",
            objects::review("system:serviceaccount:shop:web", &["lark-ca"], Some("one"), one),
            "token_of_other",
        ),
        ("no-node", objects::review(AGENT, &["lark-ca"], None, one), "token_not_bound"),
        ("gone", objects::review(AGENT, &["lark-ca"], Some("one"), &gone), "token_pod_unknown"),
        ("elsewhere", objects::review(AGENT, &["lark-ca"], Some("one"), two), "token_pod_unknown"),
    ];
    nodes
        .with_controller(async |address, service| {
            for (name, status, reason) in cases {
                let before = service.refused().get(reason).copied().unwrap_or_default();
                let client = nodes.client(address, nodes.token(name, status));
                let error = ask(&client, "web").await.unwrap_err();
                assert!(matches!(error, RequestError::Unauthenticated { .. }), "{name}: {error}");
                assert_eq!(service.refused().get(reason), Some(&(before + 1)), "{name}: {error}");
            }
            // Nobody can say: that is not the agent's fault, and it asks again.
            let client = nodes
                .client(address, nodes.token("one", objects::review(AGENT, &["lark-ca"], Some("one"), one)));
            nodes.world.server.refuse("tokenreviews", 403, "Forbidden", 1);
            let error = ask(&client, "web").await.unwrap_err();
            assert!(matches!(error, RequestError::Unreachable { .. }), "{error}");
            assert_eq!(service.refused().get("token_not_reviewed"), Some(&1));
            ask(&client, "web").await.unwrap();
        })
        .await;
}

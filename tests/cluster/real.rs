//! etcd and kube-apiserver themselves, where KUBEBUILDER_ASSETS names a directory with them and kubectl, as
//! `setup-envtest` makes it. What they are started with is documented at
//! <https://kubernetes.io/docs/reference/command-line-tools-reference/kube-apiserver/> and
//! <https://etcd.io/docs/latest/op-guide/configuration/>. RBAC is on: whoever asks has the rights of an agent or of a
//! controller, those of deploy/kubernetes/rbac.yaml.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lark_testbed::eventually;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

const ASSETS: &str = "KUBEBUILDER_ASSETS";
/// Generous: the first start of an API server takes some ten seconds.
const READY: Duration = Duration::from_secs(120);
/// Who asks, as the API knows him; a kubeconfig of that name is written for each.
const USERS: [(&str, &str, &str); 4] = [
    ("admin", "admin", "system:masters"),
    ("agent", "system:serviceaccount:lark-system:lark-agent", "system:serviceaccounts"),
    ("controller", "system:serviceaccount:lark-system:lark-controller", "system:serviceaccounts"),
    ("tenant", "tenant", "tenants"),
];

/// A control plane that runs until it is dropped.
pub(crate) struct Real {
    /// Ended in this order.
    programs: Vec<Child>,
    kubectl: PathBuf,
    home: PathBuf,
}

/// The token by which somebody of [`USERS`] is known.
pub(crate) fn token_of(name: &str) -> String {
    format!("token-of-the-{name}")
}

/// A port that nobody has at the moment.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Real {
    /// Starts one, with what deploy/ has for discovery; nothing where the variable is not set.
    pub(crate) fn start(home: &Path) -> Option<Self> {
        let assets = PathBuf::from(std::env::var_os(ASSETS)?);
        let program = |name: &str| {
            let path = assets.join(name);
            assert!(path.is_file(), "{ASSETS} is {}, and there is no {name} in it", assets.display());
            path
        };
        let (etcd, apiserver, kubectl) = (program("etcd"), program("kube-apiserver"), program("kubectl"));
        let file = |name: &str| home.join(name);
        let [store, secure] = [port(), port()];
        let store = format!("http://127.0.0.1:{store}");
        let mut run = Vec::new();
        let mut start = |path: &Path, arguments: Vec<String>| {
            let log =
                std::fs::File::create(home.join(path.file_name().unwrap()).with_extension("log")).unwrap();
            let mut command = Command::new(path);
            command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            run.push(command.spawn().unwrap());
        };
        start(
            &etcd,
            vec![
                format!("--data-dir={}", file("etcd").display()),
                format!("--listen-client-urls={store}"),
                format!("--advertise-client-urls={store}"),
                "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
                "--unsafe-no-fsync".to_owned(),
            ],
        );
        identify(home);
        let line = |(name, user, group)| format!("{},{user},{name},{group}\n", token_of(name));
        std::fs::write(file("tokens.csv"), USERS.map(line).concat()).unwrap();
        start(
            &apiserver,
            vec![
                format!("--etcd-servers={store}"),
                "--bind-address=127.0.0.1".to_owned(),
                // Else it looks for a default route, which a machine for tests may not have; and nobody asks for it.
                "--advertise-address=127.0.0.1".to_owned(),
                "--endpoint-reconciler-type=none".to_owned(),
                format!("--secure-port={secure}"),
                format!("--tls-cert-file={}", file("server.pem").display()),
                format!("--tls-private-key-file={}", file("server.key").display()),
                format!("--token-auth-file={}", file("tokens.csv").display()),
                "--authorization-mode=RBAC".to_owned(),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                // A private key here would have to be PKCS#1 or SEC 1 (client-go's keyutil).
                format!("--service-account-key-file={}", file("accounts.pub").display()),
                format!("--service-account-signing-key-file={}", file("accounts.key").display()),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                // Nobody makes the accounts of pods here.
                "--disable-admission-plugins=ServiceAccount".to_owned(),
            ],
        );
        for (name, _, _) in USERS {
            let config = json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "real",
                "clusters": [{ "name": "real", "cluster": {
                    "server": format!("https://127.0.0.1:{secure}"), "certificate-authority": file("root.pem")
                } }],
                "users": [{ "name": name, "user": { "token": token_of(name) } }],
                "contexts": [{ "name": "real", "context": { "cluster": "real", "user": name } }]
            });
            std::fs::write(file(&format!("kubeconfig-{name}")), config.to_string()).unwrap();
        }
        let real = Self { programs: run.into_iter().rev().collect(), kubectl, home: home.to_owned() };
        eventually(READY, "the API server is ready", || {
            Ok(real.kubectl(&["get", "--raw", "/readyz"], "").is_ok())
        })
        .unwrap_or_else(|e| panic!("{e:#}; see the logs in {}", home.display()));
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes");
        for manifest in ["namespace.yaml", "crds.yaml", "rbac.yaml"] {
            real.kubectl(&["apply", "--filename", &deploy.join(manifest).display().to_string()], "").unwrap();
        }
        let kind = "customresourcedefinition/authorizationpolicies.lark.mesh";
        real.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", kind], "").unwrap();
        Some(real)
    }

    /// The kubeconfig of somebody of [`USERS`].
    pub(crate) fn kubeconfig(&self, name: &str) -> PathBuf {
        self.home.join(format!("kubeconfig-{name}"))
    }

    /// Has the API make a token (TokenRequest) for an account in `lark-system`, bound to a pod if one is given.
    pub(crate) fn token(&self, account: &str, pod: Option<&Value>, audience: &str) -> String {
        let audience = format!("--audience={audience}");
        let mut line = vec!["create", "token", account, "--namespace=lark-system", &audience];
        let bound = pod.map(|pod| {
            ["name", "uid"]
                .map(|field| format!("--bound-object-{field}={}", pod["metadata"][field].as_str().unwrap()))
        });
        if let Some(bound) = &bound {
            line.push("--bound-object-kind=Pod");
            line.extend(bound.iter().map(String::as_str));
        }
        self.kubectl(&line, "").unwrap().trim().to_owned()
    }

    /// All objects of a resource, by its full name.
    pub(crate) fn all(&self, group: &str, plural: &str) -> Vec<Value> {
        let kind = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        let listed = self.kubectl(&["get", &kind, "--all-namespaces", "--output=json"], "").unwrap();
        let mut listed: Value = serde_json::from_str(&listed).unwrap();
        serde_json::from_value(listed["items"].take()).unwrap()
    }

    /// Whether the API takes an object, and what it says if not. Nothing is kept.
    pub(crate) fn takes(&self, object: &Value) -> Result<String, String> {
        self.kubectl(&["create", "--dry-run=server", "--filename=-"], &object.to_string())
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut child = Command::new(&self.kubectl)
            .arg("--kubeconfig")
            .arg(self.kubeconfig("admin"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let [said, failed] = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
        if output.status.success() { Ok(said) } else { Err(failed) }
    }

    /// Creates or replaces an object with its status, and returns it as it is kept.
    pub(crate) fn put(&self, mut object: Value) -> Value {
        let fields = object.as_object_mut().unwrap();
        let status = fields.remove("status").filter(|status| *status != json!({}));
        let metadata = fields["metadata"].as_object_mut().unwrap();
        // What the server says.
        for own in ["managedFields", "resourceVersion", "uid", "creationTimestamp"] {
            metadata.remove(own);
        }
        let apply = ["apply", "--server-side", "--force-conflicts", "--output=json", "--filename=-"];
        let mut kept = self.kubectl(&apply, &object.to_string()).unwrap_or_else(|e| panic!("{e}\n{object}"));
        if let Some(status) = status {
            let patch = json!({ "status": status }).to_string();
            let patch = ["--subresource=status", "--type=merge", "--output=json", "--patch", &patch];
            let arguments = named("patch", &object, &patch);
            kept = self.kubectl(&texts(&arguments), "").unwrap_or_else(|e| panic!("{e}\n{object}"));
        }
        serde_json::from_str(&kept).unwrap()
    }

    /// Deletes an object at once.
    pub(crate) fn delete(&self, object: &Value) {
        let arguments = named("delete", object, &["--grace-period=0", "--force", "--wait=false"]);
        self.kubectl(&texts(&arguments), "").unwrap_or_else(|e| panic!("{e}\n{object}"));
    }
}

/// A verb of kubectl for one object.
fn named(verb: &str, object: &Value, more: &[&str]) -> Vec<String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let version = text("/apiVersion");
    let kind = match version.split_once('/') {
        Some((group, version)) => format!("{}.{version}.{group}", text("/kind")),
        None => text("/kind"),
    };
    let mut all = vec![verb.to_owned(), kind, text("/metadata/name")];
    if object["metadata"]["namespace"].is_string() {
        all.push(format!("--namespace={}", text("/metadata/namespace")));
    }
    all.extend(more.iter().map(|&argument| argument.to_owned()));
    all
}

fn texts(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// The server's certificate with the root that vouches for it, and the key that signs tokens of accounts.
fn identify(home: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let leaf = params.signed_by(&key, &root).unwrap();
    let accounts = KeyPair::generate().unwrap();
    for (name, text) in [
        ("root.pem", root.pem()),
        ("server.pem", leaf.pem()),
        ("server.key", key.serialize_pem()),
        ("accounts.key", accounts.serialize_pem()),
        ("accounts.pub", accounts.public_key_pem()),
    ] {
        std::fs::write(home.join(name), text).unwrap();
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

#[test]
fn a_verb_names_an_object_by_kind_version_and_group() {
    let slice = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "db-1", "namespace": "shop" } });
    assert_eq!(
        named("delete", &slice, &["--wait=false"]),
        ["delete", "EndpointSlice.v1.discovery.k8s.io", "db-1", "--namespace=shop", "--wait=false"]
    );
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "one" } });
    assert_eq!(named("delete", &node, &[]), ["delete", "Node", "one"]);
}

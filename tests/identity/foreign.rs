//! Another CA behind the same API, written from the protocol alone, as istio-csr answers: an intermediate
//! signs, names of several kinds are in a certificate, the chain comes in two texts, and nobody tells roots.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use lark_identity::client::CaClient;
use lark_identity::credential::Credentials;
use lark_identity::roots::RootFiles;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::agent::Agent;
use crate::logs::Logs;
use crate::world::{World, id, until};

// From istio.io/api's ca.proto and google/protobuf/struct.proto, nothing of Lark's.
#[derive(Clone, PartialEq, prost::Message)]
struct CertificateRequest {
    #[prost(string, tag = "1")]
    csr: String,
    #[prost(int64, tag = "3")]
    validity_duration: i64,
    #[prost(message, optional, tag = "4")]
    metadata: Option<Struct>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Struct {
    #[prost(map = "string, message", tag = "1")]
    fields: std::collections::HashMap<String, Value>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(string, tag = "3")]
    string_value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CertificateResponse {
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

/// Keys and certificates of the other CA.
struct Pki {
    root: String,
    intermediate: String,
    signer: Issuer<'static, KeyPair>,
    issued: AtomicU64,
}

fn ca(name: &str) -> CertificateParams {
    let mut params = leaf(Duration::from_secs(100_000));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = Vec::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params
}

fn leaf(life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = (SystemTime::now() - Duration::from_secs(10)).into();
    params.not_after = (SystemTime::now() + life).into();
    params
}

impl Pki {
    fn new() -> Self {
        let key = || KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let (root_key, key) = (key(), key());
        let root_params = ca("cert-manager root");
        let root = root_params.self_signed(&root_key).unwrap().pem();
        let params = ca("istio-csr");
        let intermediate = params.signed_by(&key, &Issuer::new(root_params, root_key)).unwrap().pem();
        Self { root, intermediate, signer: Issuer::new(params, key), issued: AtomicU64::new(0) }
    }

    fn sign(&self, request: &Request<CertificateRequest>) -> Result<CertificateResponse, Status> {
        let token = request.metadata().get("authorization").and_then(|token| token.to_str().ok());
        if token != Some("Bearer a-projected-token") {
            return Err(Status::unauthenticated("request authenticate failure"));
        }
        let message = request.get_ref();
        let csr = CertificateSigningRequestParams::from_pem(&message.csr)
            .map_err(|_| Status::invalid_argument("csr"))?;
        let wanted = &message.metadata.as_ref().unwrap().fields["ImpersonatedIdentity"].string_value;
        // Half a minute of life and more: as the requester wants, capped.
        let mut params =
            leaf(Duration::from_secs(u64::try_from(message.validity_duration).unwrap().min(3600)));
        params.subject_alt_names = vec![
            SanType::DnsName("web.shop.svc".try_into().unwrap()),
            SanType::URI(wanted.as_str().try_into().unwrap()),
        ];
        let certificate = params.signed_by(&csr.public_key, &self.signer).unwrap().pem();
        self.issued.fetch_add(1, Ordering::Relaxed);
        Ok(CertificateResponse { cert_chain: vec![certificate + &self.intermediate, self.root.clone()] })
    }

    /// Serves on loopback, by a certificate of its own.
    async fn serve(self: &Arc<Self>) -> SocketAddr {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = leaf(Duration::from_secs(3600));
        params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
        let chain = params.signed_by(&key, &self.signer).unwrap().pem() + &self.intermediate;
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(chain, key.serialize_pem()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let service = Service(self.clone());
        let server = Server::builder().tls_config(tls).unwrap().add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
        address
    }
}

#[derive(Clone)]
struct Service(Arc<Pki>);

impl NamedService for Service {
    const NAME: &'static str = "istio.v1.auth.IstioCertificateService";
}

struct Create(Arc<Pki>);

impl UnaryService<CertificateRequest> for Create {
    type Response = CertificateResponse;
    type Future = std::future::Ready<Result<Response<CertificateResponse>, Status>>;

    fn call(&mut self, request: Request<CertificateRequest>) -> Self::Future {
        std::future::ready(self.0.sign(&request).map(Response::new))
    }
}

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let create = Create(self.0.clone());
        Box::pin(async move {
            assert_eq!(request.uri().path(), "/istio.v1.auth.IstioCertificateService/CreateCertificate");
            let codec = ProstCodec::<CertificateResponse, CertificateRequest>::default();
            Ok(Grpc::new(codec).unary(create, request).await)
        })
    }
}

#[tokio::test]
async fn another_ca_of_the_same_api_supplies_an_agent_which_follows_the_file_of_roots() {
    let logs = Logs::gather();
    let world = World::new();
    let pki = Arc::new(Pki::new());
    let address = pki.serve().await;
    let (root, token) = (world.path("istio-root.pem"), world.path("projected"));
    std::fs::write(&root, &pki.root).unwrap();
    std::fs::write(&token, "a-projected-token\n").unwrap();
    let client = |state: &str| CaClient {
        url: format!("https://{address}"),
        roots: RootFiles::learning(root.clone(), world.path(state).join("roots.json")),
        credentials: Credentials::kept_in(token.clone(), world.path(state).join("credential")),
    };
    let (one, two) = (Agent::of(client("a"), 0, &["web", "api"]), Agent::of(client("b"), 0, &["db"]));
    for agent in [&one, &two] {
        agent.supplied().await;
    }
    assert_eq!((one.refuses(&two), two.refuses(&one)), (None, None));
    let svid = one.store.valid(&id("web")).unwrap();
    assert_eq!(svid.certified.cert.len(), 2, "leaf and intermediate are sent, the root is not");
    assert!(svid.not_after <= SystemTime::now() + Duration::from_secs(3600));
    until("it is said that nobody tells roots", async || {
        logs.has("INFO", "this CA tells no roots: the file of roots is followed")
    })
    .await;
    // It is renewed in its time.
    let issued = pki.issued.load(Ordering::Relaxed);
    one.set_clock(3600 * 6 / 10);
    until("it is renewed", async || {
        pki.issued.load(Ordering::Relaxed) >= issued + 2
            && one.store.valid(&id("web")).is_some_and(|now| now.serial != svid.serial)
    })
    .await;
    assert!(!world.path("a/credential").exists() && !world.path("a/roots.json").exists());
    // Its file of roots counts, as soon as it changes.
    let other = Pki::new();
    std::fs::write(&root, pki.root.clone() + &other.root).unwrap();
    until("the file is followed", async || one.store.bundle().ids().len() == 2).await;
}

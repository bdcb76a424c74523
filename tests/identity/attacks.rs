//! Who asks for what is not his: refused, counted and said, and nobody else notices.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use lark_core::constants::{CA_BURST, CA_PER_SECOND, SVID_LIFE};
use lark_identity::client::Issuer;
use lark_identity::protocol::node::{FOLLOW, FromNode, Held, Said, ToNode};
use lark_identity::protocol::{CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse};
use lark_identity::verify::{Usage, spiffe_id, verify_chain};
use lark_testbed::Record;
use rcgen::{KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::issue::forged;
use crate::logs::Logs;
use crate::world::{MESH, World, csr, csr_by, id, until};

async fn channel(world: &World, address: SocketAddr) -> Channel {
    let root = Certificate::from_pem(std::fs::read(world.path("data/root.pem")).unwrap());
    let tls = ClientTlsConfig::new().ca_certificate(root);
    Endpoint::from_shared(format!("https://{address}"))
        .unwrap()
        .tls_config(tls)
        .unwrap()
        .connect()
        .await
        .unwrap()
}

fn token(world: &World, node: &str) -> String {
    std::fs::read_to_string(world.path(&format!("{node}.token"))).unwrap().trim().to_owned()
}

fn authorised<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// A request as only somebody else than an agent would make it.
async fn ask(
    channel: &Channel,
    token: Option<&str>,
    identity: &str,
    csr: String,
) -> Result<Vec<String>, Status> {
    let message = IstioCertificateRequest::new(csr, SVID_LIFE, identity);
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
    let path = PathAndQuery::from_static(CREATE_CERTIFICATE);
    let answer = grpc.unary(authorised(message, token), path, codec).await?;
    Ok(answer.into_inner().cert_chain)
}

async fn metrics(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: lark\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn whatever_is_not_his_is_refused_counted_and_said() {
    let logs = Logs::gather();
    let world = World::new();
    let running = world.serve().await;
    let channel = channel(&world, running.address).await;
    let (one, two) = (token(&world, "one"), token(&world, "two"));
    let web = id("web").to_string();
    let uri = |name: &str| SanType::URI(name.try_into().unwrap());
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let good = || csr(vec![]);
    let long = format!("spiffe://cluster.local/ns/shop/sa/{}", "a".repeat(254));

    let of_others = ["db", "nobody", "web-1"].map(|account| id(account).to_string());
    let no_identities = [
        "",
        "web",
        "spiffe://cluster.local/ns/shop/sa/*",
        "spiffe://cluster.local/ns/*/sa/web",
        "spiffe://*/ns/shop/sa/web",
        "spiffe://cluster.local/ns/shop/sa/web/../db",
        "spiffe://cluster.local/ns/shop/sa/web\0",
        "spiffe://cluster.local/ns/shop/sa/WEB",
        "spiffe://cluster.local/ns/shop/sa/web?x=1",
        &long,
    ];
    let mut attacks: Vec<(Option<&str>, &str, String, Code, &str)> = Vec::new();
    for identity in &of_others {
        attacks.push((Some(&one), identity, good(), Code::PermissionDenied, "not_placed"));
    }
    for identity in no_identities {
        attacks.push((Some(&one), identity, good(), Code::InvalidArgument, "bad_identity"));
    }
    for names in [
        vec![uri(&of_others[0])],
        vec![uri(&web), uri(&of_others[0])],
        vec![uri("spiffe://cluster.local/ns/shop/sa/*")],
        vec![dns("*.shop.svc.cluster.local")],
        vec![dns("kubernetes.default")],
        vec![uri(&web), SanType::IpAddress("10.0.1.1".parse().unwrap())],
        vec![SanType::Rfc822Name("root@cluster.local".try_into().unwrap())],
    ] {
        attacks.push((Some(&one), &web, csr(names), Code::InvalidArgument, "csr_names"));
    }
    attacks.extend([
        (Some(one.as_str()), web.as_str(), forged(), Code::InvalidArgument, "csr_unusable"),
        (Some(&one), &web, "x".repeat(20_000), Code::InvalidArgument, "csr_too_large"),
        (Some(&one), &web, csr_by(&ed25519, vec![]), Code::InvalidArgument, "csr_key_kind"),
        (Some(&one), &web, "x".repeat(1 << 20), Code::OutOfRange, "message_unusable"),
        // Node two's token is node two's alone.
        (Some(&two), &web, good(), Code::PermissionDenied, "not_placed"),
        (Some("lark-guess"), &web, good(), Code::Unauthenticated, "unauthenticated"),
        (Some(""), &web, good(), Code::Unauthenticated, "unauthenticated"),
        (None, &web, good(), Code::Unauthenticated, "unauthenticated"),
    ]);
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for (token, identity, csr, code, reason) in attacks {
        let status = ask(&channel, token, identity, csr).await.unwrap_err();
        assert_eq!(status.code(), code, "{identity:?} {reason}: {status}");
        *expected.entry(reason).or_default() += 1;
        assert_eq!(running.service.refused(), expected, "{identity:?}");
        assert!(logs.has("WARN", &format!("reason=\"{reason}\"")), "{reason} is not said");
    }
    assert!(!logs.text().contains(&one) && !logs.text().contains("lark-guess"), "a token is in the log");
    // Nobody was harmed.
    ask(&channel, Some(&one), &web, good()).await.unwrap();
    assert_eq!(running.service.issued(), 1);

    for (fault, reasons) in [
        ("the CA is asked for another node's pod or an unknown account", &["not_placed"][..]),
        (
            "the CA is asked for what is no identity: wildcards, NULs, other paths, 254 characters",
            &["bad_identity"],
        ),
        ("a CSR with other names: identities, wildcards, hosts, addresses", &["csr_names"]),
        (
            "a CSR that is huge, badly signed or of another kind of key",
            &["csr_unusable", "csr_too_large", "csr_key_kind", "message_unusable"],
        ),
        ("a token of nobody, or none", &["unauthenticated"]),
    ] {
        let count = reasons.iter().map(|reason| expected[reason]).sum();
        Record::told(fault, count, format!("{count} of {count} refused, counted and said")).unwrap();
    }

    let text = metrics(running.metrics, "/metrics").await;
    for (reason, count) in expected {
        let line = format!("lark_ca_requests_refused_total{{reason=\"{reason}\"}} {count}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
    assert!(text.contains("lark_ca_requests_refused_total{reason=\"rate_limited\"} 0\n"), "{text}");
    assert!(text.contains("lark_ca_certificates_issued_total 1\n"), "{text}");
    assert!(text.contains("# TYPE lark_ca_certificates_issued_total counter"), "{text}");
    assert!(text.contains("lark_ca_rotation_phase{phase=\"steady\"} 1\n"), "{text}");
    let root = world.bundle().ids()[0].to_string();
    assert!(text.contains(&format!("lark_ca_expiration_timestamp_seconds{{root=\"{root}\"}} ")), "{text}");
    for path in ["/healthz", "/readyz"] {
        assert!(metrics(running.metrics, path).await.starts_with("HTTP/1.1 200"));
    }
    running.stop().await;
}

#[tokio::test]
async fn a_flood_of_one_node_is_slowed_down_and_the_others_are_served() {
    let world = World::new();
    let running = world.serve().await;
    let (flooder, other) = (channel(&world, running.address).await, world.client("two", running.address));
    let one = token(&world, "one");
    let began = Instant::now();
    let mut flood = tokio::task::JoinSet::new();
    let request = csr(vec![]);
    for _ in 0..16 {
        let (flooder, one, request) = (flooder.clone(), one.clone(), request.clone());
        flood.spawn(async move {
            let mut issued = 0;
            for _ in 0..100 {
                match ask(&flooder, Some(&one), id("web").as_str(), request.clone()).await {
                    Ok(_) => issued += 1,
                    Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status}"),
                }
            }
            issued
        });
    }
    let (mut served, mut issued) = (0, 0);
    let theirs = id("db");
    while !flood.is_empty() {
        tokio::select! {
            answer = other.issue(csr(vec![]), &theirs, SVID_LIFE) => {
                answer.unwrap();
                served += 1;
            }
            Some(done) = flood.join_next() => issued += done.unwrap(),
        }
    }
    let most = u64::from(CA_BURST) + (began.elapsed().as_secs() + 1) * u64::from(CA_PER_SECOND);
    assert!((u64::from(CA_BURST)..=most).contains(&issued), "{issued} of at most {most}");
    // Requests of node two's that were given up in the middle of a handshake may be counted too.
    assert_eq!(running.service.refused().get("rate_limited"), Some(&(1600 - issued)));
    assert!(served > 0, "the other node was not served");
    let seen = format!("{} of 1600 refused and counted; the other node had all its {served}", 1600 - issued);
    Record::told("a flood of requests by one node", 1600, seen).unwrap();
    running.stop().await;
}

#[tokio::test]
async fn connections_from_one_address_leave_room_for_others() {
    let world = World::new();
    let running = world.serve().await;
    let mut held = Vec::new();
    for _ in 0..200 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        held.push(socket.connect(running.address).await.unwrap());
    }
    until("what is too much is refused", async || {
        running.service.refused().get("connection_limit").is_some_and(|count| *count >= 100)
    })
    .await;
    world.client("one", running.address).issue(csr(vec![]), &id("web"), SVID_LIFE).await.unwrap();
    until("silent ones are let go", async || {
        running.service.refused().get("handshake").is_some_and(|count| *count >= 60)
    })
    .await;
    let fault = "200 connections from one address that say nothing";
    Record::told(fault, 200, "at least 100 refused, the others let go; another address served meanwhile")
        .unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_stream_of_nobody_or_with_nonsense_is_refused() {
    let world = World::new();
    let running = world.serve().await;
    let channel = channel(&world, running.address).await;
    let one = token(&world, "one");
    let follow = async |token: Option<&str>, held: Held| {
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let said =
            tokio_stream::iter([FromNode { said: Some(Said::Held(held)) }]).chain(tokio_stream::pending());
        let codec = ProstCodec::<FromNode, ToNode>::default();
        let path = PathAndQuery::from_static(FOLLOW);
        let mut told = grpc.streaming(authorised(said, token), path, codec).await?.into_inner();
        told.message().await
    };
    let held = |roots: Vec<Vec<u8>>| Held { roots, ..Held::default() };
    assert!(follow(Some(&one), held(vec![vec![1; 32]])).await.unwrap().is_some());
    for (token, report, code, reason) in [
        (None, held(vec![]), Code::Unauthenticated, "unauthenticated"),
        (Some("lark-guess"), held(vec![]), Code::Unauthenticated, "unauthenticated"),
        (Some(one.as_str()), held(vec![vec![1; 31]]), Code::InvalidArgument, "report_unusable"),
        (Some(&one), held(vec![vec![1; 32]; 17]), Code::InvalidArgument, "report_unusable"),
    ] {
        assert_eq!(follow(token, report).await.unwrap_err().code(), code);
        assert!(running.service.refused().contains_key(reason), "{reason}");
    }
    Record::told("a node's stream by nobody, or with nonsense", 4, "4 of 4 refused and counted").unwrap();
    running.stop().await;
}

#[tokio::test]
async fn accounts_with_dots_and_of_the_longest_length_are_served_like_any_other() {
    let world = World::new();
    let long = format!("{}.{}", "a".repeat(126), "b".repeat(126));
    let accounts = ["build.bot.v1-2", long.as_str(), "0.9"];
    assert_eq!(long.len(), 253);
    let mut mesh = MESH.to_owned();
    for (number, account) in accounts.iter().enumerate() {
        mesh += &format!(
            "  - {{ namespace: shop, name: p{number}, account: \"{account}\", node: one, addresses: [10.0.4.{number}] }}\n"
        );
    }
    std::fs::write(world.path("mesh.yaml"), mesh).unwrap();
    let running = world.serve().await;
    let client = Arc::new(world.client("one", running.address));
    for account in accounts {
        let chain = client.issue(csr(vec![]), &id(account), SVID_LIFE).await.unwrap();
        let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
        assert_eq!(spiffe_id(&leaf), Ok(id(account)));
        let now = std::time::SystemTime::now();
        assert_eq!(verify_chain(&leaf, &[], &world.bundle(), now, Usage::Client), Ok(id(account)));
    }
    // A prefix of one, or with a dot less, is somebody else.
    for other in ["build.bot", "build.botv1-2", &long[..252]] {
        client.issue(csr(vec![]), &id(other), SVID_LIFE).await.unwrap_err();
    }
    running.stop().await;
}

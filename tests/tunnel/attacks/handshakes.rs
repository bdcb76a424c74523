//! Handshakes that must not succeed, and those that never end.

use std::time::{Duration, SystemTime};

use lark_testbed::Record;
use lark_testbed::hostile::{self, Hostile};
use lark_tunnel::TunnelSettings;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{STRANGER, Stage, TAKEN, mib};
use crate::certificates::{Authority, dns, uri};
use crate::ends::{config, id, on_worker, quick};

type Change = fn(&mut CertificateParams);

/// What is odd about a client's certificate, and the cause that it is counted under.
const CERTIFICATES: &[(&str, Change, &str)] = &[
    ("two URIs", |p| p.subject_alt_names.push(uri("spiffe://cluster.local/ns/shop/sa/db")), "uri_count"),
    ("the same URI twice", |p| p.subject_alt_names.extend(p.subject_alt_names.clone()), "uri_count"),
    ("a host name alone", |p| p.subject_alt_names = vec![dns("web.shop")], "uri_count"),
    ("no names", |p| p.subject_alt_names.clear(), "uri_count"),
    ("a NUL at the end", |p| p.subject_alt_names = only("sa/web\0"), "no_identity"),
    ("a NUL and more", |p| p.subject_alt_names = only("sa/web\0.evil"), "no_identity"),
    ("a slash at the end", |p| p.subject_alt_names = only("sa/web/"), "no_identity"),
    ("a percent sign", |p| p.subject_alt_names = only("sa/we%62"), "no_identity"),
    ("a wildcard", |p| p.subject_alt_names = only("sa/*"), "no_identity"),
    ("a step up", |p| p.subject_alt_names = only("sa/x/../web"), "no_identity"),
    ("a query", |p| p.subject_alt_names = only("sa/web?x"), "no_identity"),
    ("no account", |p| p.subject_alt_names = only("sa/"), "no_identity"),
    (
        "upper case",
        |p| p.subject_alt_names = vec![uri("SPIFFE://cluster.local/ns/shop/sa/web")],
        "no_identity",
    ),
    (
        "another scheme",
        |p| p.subject_alt_names = vec![uri("https://cluster.local/ns/shop/sa/web")],
        "no_identity",
    ),
    (
        "another trust domain",
        |p| p.subject_alt_names = vec![uri("spiffe://elsewhere/ns/shop/sa/web")],
        "trust_domain",
    ),
    (
        "a longer trust domain",
        |p| p.subject_alt_names = vec![uri("spiffe://cluster.local.evil/ns/shop/sa/web")],
        "trust_domain",
    ),
    ("a CA's certificate", |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "no_chain"),
    ("another use", |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning], "no_chain"),
    ("expired", |p| p.not_after = (SystemTime::now() - HOUR).into(), "expired"),
    ("not yet valid", |p| p.not_before = (SystemTime::now() + HOUR).into(), "not_yet_valid"),
];

const HOUR: Duration = Duration::from_secs(3600);

fn only(end: &str) -> Vec<rcgen::SanType> {
    vec![uri(&format!("spiffe://cluster.local/ns/shop/{end}"))]
}

fn odd(authority: &Authority, change: Change) -> ClientConfig {
    config(&authority.store("web", change), "web")
}

/// Tries a handshake, and waits until the other end has closed.
async fn attempt(stage: &Stage, config: ClientConfig, name: Option<&str>) {
    let socket = hostile::from(TAKEN, stage.node.address).await.unwrap();
    // In TLS 1.3 the client's handshake is over before the server has looked.
    if let Ok(mut hostile) = Hostile::new(socket, config, name).await {
        let _ = hostile.hello(&[]).await;
        hostile.closed().await;
    }
}

#[test]
fn odd_handshakes_are_counted_each_by_its_cause_and_harm_nobody() {
    on_worker(async {
        let mut stage = Stage::new(quick()).await;
        let db = lark_tunnel::name::server_name(&id("db"));
        let name = Some(db.as_str());
        let mut attacks: Vec<(&str, ClientConfig, Option<&str>, &str)> = Vec::new();
        for (what, change, cause) in CERTIFICATES {
            attacks.push((what, odd(&stage.authority, *change), name, cause));
        }
        let other = lark_tunnel::name::server_name(&id("cache"));
        let versions = |version| hostile::nobody(&[version]).unwrap();
        let mut foreign = stage.config();
        foreign.client_auth_cert_resolver = odd(&Authority::new(), |_| ()).client_auth_cert_resolver;
        let mut http1 = stage.config();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut no_protocol = stage.config();
        no_protocol.alpn_protocols.clear();
        attacks.extend([
            ("a foreign root", foreign, name, "no_chain"),
            ("no certificate", versions(&rustls::version::TLS13), name, "no_peer_certificate"),
            ("TLS 1.2", versions(&rustls::version::TLS12), name, "old_tls"),
            ("a name of nobody", stage.config(), Some(other.as_str()), "unknown_name"),
            ("a host name", stage.config(), Some("db.shop"), "unknown_name"),
            ("no name", stage.config(), None, "unknown_name"),
            ("HTTP/1.1", http1, name, "not_http2"),
            ("no protocol", no_protocol, name, "not_http2"),
        ]);
        let others = attacks.len() - CERTIFICATES.len();
        for (what, config, name, cause) in attacks {
            let before = stage.handshakes(cause);
            attempt(&stage, config, name).await;
            stage.until(&format!("{what} as {cause}"), |stage| stage.handshakes(cause), before + 1).await;
            stage.others_are_unharmed().await;
        }
        for (fault, count) in [
            (
                "a client's certificate with odd names, of another trust domain, of another use, expired or not yet valid",
                CERTIFICATES.len(),
            ),
            (
                "a handshake with no certificate, a foreign root, TLS 1.2, another protocol, or an unknown name",
                others,
            ),
        ] {
            let seen = format!("{count} of {count} refused and counted by cause, others unharmed after each");
            Record::told(fault, u64::try_from(count).unwrap(), seen).unwrap();
        }
        for (what, bytes, cause) in [
            ("plaintext", "GET / HTTP/1.1\r\n\r\n", "not_our_tls"),
            ("nothing", "", "closed_by_peer"),
            ("half a record", "\x16\x03\x01\x02", "closed_by_peer"),
        ] {
            let before = stage.handshakes(cause);
            let mut socket = hostile::from(STRANGER, stage.node.address).await.unwrap();
            socket.write_all(bytes.as_bytes()).await.unwrap();
            socket.shutdown().await.unwrap();
            stage.until(what, |stage| stage.handshakes(cause), before + 1).await;
        }
        stage.others_are_unharmed().await;
        assert!(stage.grown() < 32 << 20, "{} bytes", stage.grown());
        let fault = "plaintext, half a record or nothing on the tunnel's port";
        Record::told(fault, 3, "3 of 3 closed and counted by cause").unwrap();
    });
}

#[test]
fn a_handshake_byte_by_byte_is_given_up() {
    on_worker(async {
        let settings = TunnelSettings { handshake_timeout: Duration::from_millis(500), ..quick() };
        let mut stage = Stage::new(settings).await;
        let mut socket = hostile::from(STRANGER, stage.node.address).await.unwrap();
        // The beginning of a ClientHello of 512 bytes.
        let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[0; 500]].concat();
        for byte in hello {
            if socket.write_all(&[byte]).await.is_err() || stage.handshakes("handshake_timeout") > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stage.until("a slow handshake", |stage| stage.handshakes("handshake_timeout"), 1).await;
        stage.others_are_unharmed().await;
        let seen = "given up and counted; others unharmed";
        Record::told("a handshake byte by byte", 1, seen).unwrap();
    });
}

/// From addresses of nodes and of others, thousands at a time: whoever is a node and behaves gets in.
#[test]
fn thousands_of_mute_connections_keep_nobody_out() {
    on_worker(async {
        let settings = TunnelSettings { handshake_timeout: Duration::from_secs(100), ..quick() };
        let mut stage = Stage::new(settings).await;
        let mut mute = Vec::new();
        for source in [STRANGER, TAKEN] {
            for _ in 0..2_000 {
                mute.push(hostile::from(source, stage.node.address).await.unwrap());
            }
            stage.others_are_unharmed().await;
        }
        // Of 2,048 handshakes a quarter for the node and an eighth for all that are none.
        let refused = 4_000 - 2_048 / 4 - 2_048 / 8;
        stage.until("too many", |stage| stage.handshakes("too_many"), refused).await;
        assert_eq!(stage.handshakes("too_many"), refused);
        assert_eq!(mute.last_mut().unwrap().read(&mut [0; 1]).await.unwrap(), 0, "it was not closed");
        assert!(stage.grown() < 32 << 20, "{} bytes", stage.grown());
        drop(mute);
        stage.until("closed", |stage| stage.handshakes("closed_by_peer"), 4_000 - refused).await;
        let seen = format!("{refused} of 4000 closed and counted; nodes got in; {}", mib(stage.grown()));
        Record::told("thousands of half-open connections", 4_000, seen).unwrap();
    });
}

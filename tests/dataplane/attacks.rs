//! A node that was taken: it has its workloads' valid certificates and asks the agent of another node for what
//! it must not have. Each is refused for its own reason and counted, and captured pods go on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lark_core::identity::SpiffeId;
use lark_identity::{Svid, SvidStore, TrustBundle};
use lark_sys::netns::NetNs;
use lark_testbed::hostile::{self, END_HEADERS, Hostile, connect_to, frame, kind};
use lark_testbed::{Nginx, Pod, Record};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use crate::house::House;

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

/// A certificate for `account`, as the CA in that directory would give it.
fn stolen(home: &Path, account: &str) -> SvidStore {
    let files = std::fs::read_dir(home.join("roots")).unwrap().map(|entry| entry.unwrap().path());
    let mut texts = files.filter_map(|path| std::fs::read_to_string(path).ok());
    let key = texts.find(|text| text.contains("PRIVATE KEY")).unwrap();
    let root = std::fs::read_to_string(home.join("root.pem")).unwrap();
    let key_pair = KeyPair::from_pem(&key[key.find("-----BEGIN PRIVATE").unwrap()..]).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&root, key_pair).unwrap();
    let own = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id(account).as_str()).unwrap())];
    let certificate = params.signed_by(&own, &issuer).unwrap();
    let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der()));
    let certified = CertifiedKey::new(vec![certificate.der().clone()], any_ecdsa_type(&secret).unwrap());
    let store = SvidStore::new(TrustBundle::from_pem(root.as_bytes()).unwrap(), Arc::new(SystemTime::now));
    let (not_before, not_after) = (SystemTime::now(), SystemTime::now() + Duration::from_secs(3600));
    let certified = Arc::new(certified);
    let root = store.bundle().ids()[0];
    let serial = "1".to_owned();
    store.put(Svid { id: id(account), certified, not_before, not_after, serial, root });
    store
}

/// Ports on which something listens inside a pod.
fn listeners(pod: &Pod) -> Vec<u16> {
    let said = pod.place.run("ss", &["-Hltn"]).unwrap();
    let ports =
        said.lines().filter_map(|line| line.split_whitespace().nth(3)?.rsplit_once(':')?.1.parse().ok());
    ports.collect()
}

fn metric(house: &House, series: &str) -> u64 {
    let url = format!("http://{}:15020/metrics", house.nodes.1.ip);
    let text = house.nodes.1.place.run("curl", &["-sS", "--max-time", "10", &url]).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no series {series}")).parse().unwrap()
}

#[test]
fn a_taken_node_gets_nothing_that_is_not_its_own() {
    let mut house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    house.mesh.service("web", &["10.96.0.1"], 80, 8080, &[&house.server]).unwrap();
    let url = format!("http://{}:8080/", house.server.ip);
    house.curl(&url);
    let agents_own: Vec<u16> = listeners(&house.server).into_iter().filter(|port| *port != 8080).collect();
    let (server, client, neighbour) = (&house.server.ip, &house.client.ip, &house.neighbour.ip);
    let (one, two) = (&house.nodes.0.ip, &house.nodes.1.ip);
    let own = format!("for=\"{client}:4242\"");
    let mut attacks = vec![
        (format!("{neighbour}:8080"), own.clone(), "not_my_node"),
        (format!("{client}:8080"), own.clone(), "not_my_node"),
        ("10.200.200.200:8080".to_owned(), own.clone(), "not_my_workload"),
        ("127.0.0.1:8080".to_owned(), own.clone(), "authority_local"),
        ("127.8.8.8:15020".to_owned(), own.clone(), "authority_local"),
        ("[::1]:8080".to_owned(), own.clone(), "authority_local"),
        ("[::ffff:127.0.0.1]:8080".to_owned(), own.clone(), "authority_local"),
        ("0.0.0.0:8080".to_owned(), own.clone(), "authority_local"),
        ("169.254.169.254:80".to_owned(), own.clone(), "authority_local"),
        (format!("{two}:15008"), own.clone(), "authority_agent"),
        (format!("{two}:15020"), own.clone(), "authority_agent"),
        (format!("{one}:15012"), own.clone(), "authority_agent"),
        ("10.96.0.1:80".to_owned(), own.clone(), "authority_service"),
        (format!("{server}:0"), own.clone(), "authority_port_zero"),
        ("web.shop:8080".to_owned(), own.clone(), "authority_unusable"),
        // A pod of that node with another account than the certificate's.
        (format!("{server}:8080"), format!("for=\"{neighbour}:4242\""), "source_unknown"),
        // The destination itself, the nodes, loopback, nobody.
        (format!("{server}:8080"), format!("for=\"{server}:4242\""), "source_unknown"),
        (format!("{server}:8080"), format!("for=\"{one}:4242\""), "source_unknown"),
        (format!("{server}:8080"), "for=\"127.0.0.1:4242\"".to_owned(), "source_unknown"),
        (format!("{server}:8080"), "for=\"10.200.200.200:4242\"".to_owned(), "source_unknown"),
        (format!("{server}:8080"), "for=unknown".to_owned(), "forwarded_unusable"),
    ];
    assert!(!agents_own.is_empty(), "the agent has no listeners in the pod");
    attacks
        .extend(agents_own.iter().map(|port| (format!("{server}:{port}"), own.clone(), "authority_agent")));
    let store = stolen(house.controller.home(), "client");
    let name = lark_tunnel::name::server_name(&id("server"));
    let svid = store.current(&id("client")).unwrap();
    let config =
        lark_tunnel::tls::client(&lark_tunnel::tls::provider(), &svid, &store, &id("server")).unwrap();
    let (from, tunnels) = (*one, SocketAddr::new(*two, 15_008));
    let node = NetNs::open(&house.nodes.0.place.netns).unwrap();
    let answers = node.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = hostile::from(from, tunnels).await.unwrap();
            let mut peer = Hostile::new(socket, config, Some(&name)).await.unwrap();
            peer.hello(&[]).await.unwrap();
            // All at once: some wait a second, in case that discovery lags.
            for (stream, (authority, forwarded, _)) in (1..).step_by(2).zip(&attacks) {
                let request = frame(kind::HEADERS, END_HEADERS, stream, &connect_to(authority, forwarded));
                peer.send(&request).await.unwrap();
            }
            let mut answers = BTreeMap::new();
            while answers.len() < attacks.len() {
                let answer = peer.next_of(kind::HEADERS).await.unwrap();
                answers.insert(answer.stream, answer.payload);
            }
            // What is its own it gets.
            let own = connect_to(&format!("{server}:8080"), &own);
            let answer = peer.ask(1001, &own).await.unwrap();
            (answers, answer)
        })
    });
    let (answers, own) = answers.unwrap();
    assert_eq!(own, [0x88], "not 200: {}", house.logs());
    let mut expected = BTreeMap::new();
    for ((authority, forwarded, reason), answer) in attacks.iter().zip(answers.values()) {
        let answer = String::from_utf8_lossy(answer);
        assert!(answer.contains(reason), "{authority} {forwarded}: expected {reason}, {answer}");
        *expected.entry(*reason).or_insert(0) += 1;
    }
    for (reason, count) in expected {
        let series =
            format!("lark_proxy_connections_refused_total{{direction=\"inbound\",reason=\"{reason}\"}}");
        assert_eq!(metric(&house, &series), count, "{reason}");
    }
    let fault = "a node in other hands asks for other pods, nodes, Services, loopback, agents' ports, or in another pod's name";
    let count = attacks.len();
    let seen = format!("{count} of {count} refused and counted; its own stream was delivered");
    Record::told(fault, u64::try_from(count).unwrap(), seen).unwrap();
    house.curl(&url);
}

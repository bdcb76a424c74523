//! A node that was taken: it has its workloads' valid certificates and asks the agent of another node for what
//! it must not have. Each is refused for its own reason and counted, and captured pods go on.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lark_core::identity::SpiffeId;
use lark_identity::{Svid, SvidStore, TrustBundle};
use lark_sys::netns::NetNs;
use lark_testbed::hostile::{self, END_HEADERS, Hostile, connect_to, frame, kind};
use lark_testbed::{Nginx, Pod, Record, Wire, eventually};
use lark_tunnel::cipher::{by_speed, provider};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::house::{House, metric};

/// What no application may be told.
const CANARY: &str = "GET /canary";

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

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Ports on which something listens inside a pod.
fn listeners(pod: &Pod) -> Vec<u16> {
    let said = pod.place.run("ss", &["-Hltn"]).unwrap();
    let ports =
        said.lines().filter_map(|line| line.split_whitespace().nth(3)?.rsplit_once(':')?.1.parse().ok());
    ports.collect()
}

#[test]
fn a_taken_node_gets_nothing_that_is_not_its_own() {
    let mut house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    house.mesh.service("web", &["10.96.0.1"], 80, 8080, &[&house.server]).unwrap();
    let url = format!("http://{}:8080/", house.server.ip);
    house.curl(&url);
    let agents_own: Vec<u16> =
        listeners(&house.server).into_iter().filter(|port| ![8080, 8082].contains(port)).collect();
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
    let runtime = runtime();
    let mut peer = house.taken(&runtime, "client", "server");
    let (answers, own) = runtime.block_on(async {
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
    });
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

impl House {
    /// A tunnel in the hands of whoever has taken node one: it proves to be `client`, to the agent of node
    /// two as `server`.
    fn taken(&self, runtime: &Runtime, client: &str, server: &str) -> Hostile {
        let store = stolen(self.controller.home(), client);
        let svid = store.current(&id(client)).unwrap();
        let config = lark_tunnel::tls::client(&provider(&by_speed()), &svid, &store, &id(server)).unwrap();
        let name = lark_tunnel::name::server_name(&id(server));
        let (from, to) = (self.nodes.0.ip, SocketAddr::new(self.nodes.1.ip, 15_008));
        let node = NetNs::open(&self.nodes.0.place.netns).unwrap();
        let taken = node.within(|| {
            runtime.block_on(async {
                let socket = hostile::from(from, to).await.unwrap();
                let mut peer = Hostile::new(socket, config, Some(&name)).await.unwrap();
                peer.hello(&[]).await.unwrap();
                peer
            })
        });
        taken.unwrap()
    }

    fn refused_inbound(&self, reason: &str) -> u64 {
        let labels = format!("{{direction=\"inbound\",reason=\"{reason}\"}}");
        metric(self, &format!("lark_proxy_connections_refused_total{labels}"))
    }
}

#[test]
fn a_valid_certificate_of_a_denied_workload_opens_nothing() {
    let mut house = House::captured();
    let nginx = Nginx::start(&house.bed, &house.server).unwrap();
    house.strict(&house.server.clone());
    let allow = json!({
        "apiVersion": "lark.mesh/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": { "namespace": "shop", "name": "client-only" },
        "spec": { "rules": [{ "from": [{ "accounts": ["client"] }] }] },
    });
    house.mesh.change(|document| document["authorizationPolicies"] = json!([allow])).unwrap();
    let explain = ["policy", "explain", "--from", "shop/neighbour", "--to", "shop/server:8080"];
    eventually(Duration::from_secs(20), "the policy is there", || {
        Ok(house.two.table(&explain)?.contains("DENIED"))
    })
    .unwrap();
    let ask = |account: &str, ip: IpAddr| {
        let request = connect_to(&format!("{}:8080", house.server.ip), &format!("for=\"{ip}:4242\""));
        let runtime = runtime();
        let mut peer = house.taken(&runtime, account, "server");
        runtime.block_on(async {
            let answer = peer.ask(1, &request).await.unwrap();
            // A request right behind it, whatever was answered.
            let _ =
                peer.send(&frame(kind::DATA, 0, 1, format!("{CANARY} HTTP/1.0\r\n\r\n").as_bytes())).await;
            (answer == [0x88], String::from_utf8_lossy(&answer).into_owned())
        })
    };
    let capture = || Wire::within_pod(&house.bed, &house.server).unwrap();
    let wire = capture();
    let (open, answer) = ask("neighbour", house.neighbour.ip);
    assert!(!open && answer.contains("policy_denied"), "{answer}");
    assert!(answer.contains("authorization no_match 0 AuthorizationPolicy shop/client-only"), "{answer}");
    assert_eq!(house.refused_inbound("policy_denied"), 1);
    // An address of the one that is allowed does not help without its identity, nor the other way round.
    let (open, answer) = ask("neighbour", house.client.ip);
    assert!(!open && answer.contains("source_unknown"), "{answer}");
    let (open, answer) = ask("client", house.neighbour.ip);
    assert!(!open && answer.contains("source_unknown"), "{answer}");
    assert_eq!(wire.count(CANARY).unwrap(), 0);
    let wire = capture();
    assert!(!nginx.access_log().contains("canary"), "{}", nginx.access_log());
    assert!(ask("client", house.client.ip).0);
    eventually(Duration::from_secs(10), "whoever may is served", || {
        Ok(nginx.access_log().contains("canary"))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    assert!(wire.count(CANARY).unwrap() >= 1, "the capture does not see what is delivered");
}

/// Says something to an agent's tunnel port, in plaintext or by TLS without a certificate, and waits for the
/// end.
const NOBODY: &str = r"
import socket, ssl, sys
s = socket.create_connection((sys.argv[1], 15008), 20)
try:
    if sys.argv[2] == 'tls':
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
        c.minimum_version = ssl.TLSVersion.TLSv1_3
        c.set_alpn_protocols(['h2'])
        s = c.wrap_socket(s, server_hostname=sys.argv[3])
    s.sendall(b'GET /%s HTTP/1.0\r\n\r\n' % sys.argv[4].encode() * 3)
    while s.recv(4096): pass
except OSError: pass
print('end')
";

#[test]
fn straight_to_the_tunnel_port_without_a_certificate_leads_nowhere_from_anywhere() {
    let mut house = House::captured();
    let nginx = Nginx::start(&house.bed, &house.server).unwrap();
    house.strict(&house.server.clone());
    let url = format!("http://{}:8080/", house.server.ip);
    house.curl(&url);
    let name = lark_tunnel::name::server_name(&id("server"));
    let to = house.nodes.1.ip.to_string();
    let handshakes = |result: &str| {
        metric(&house, &format!("lark_tunnel_handshakes_total{{result=\"{result}\",side=\"server\"}}"))
    };
    // Another node, the node itself, a pod elsewhere and one of the node, which are captured.
    let places = [&house.nodes.0.place, &house.nodes.1.place, &house.client.place, &house.server.place];
    let wire = Wire::within_pod(&house.bed, &house.server).unwrap();
    for (n, place) in (1..).zip(places) {
        // What the pod itself says leaves it, whoever is meant.
        let word = if place.netns == house.server.place.netns { "of-its-own" } else { "canary" };
        for how in ["tls", "plain"] {
            let said = place.run("python3", &["-c", NOBODY, &to, how, &name, word]).unwrap();
            assert_eq!(said, "end\n");
        }
        eventually(Duration::from_secs(20), "each is counted by its cause", || {
            Ok((handshakes("no_peer_certificate"), handshakes("not_our_tls")) == (n, n))
        })
        .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    }
    let log = nginx.access_log();
    assert!(!log.contains("canary") && !log.contains("of-its-own"), "{log}");
    house.curl(&url);
    // The last answer is there, so it saw what is delivered.
    let seen = wire.finish().unwrap();
    assert_eq!(lark_testbed::occurrences(&seen, CANARY), 0);
    assert!(lark_testbed::occurrences(&seen, "canary-of-lark") >= 1);
}

#[test]
fn an_address_that_changed_hands_during_a_connection_leads_nobody_to_its_next_owner() {
    // The tunnel of this test answers no PING.
    let mut house = House::captured_with(&["--keepalive", "300"]);
    let nginx = Nginx::start(&house.bed, &house.server).unwrap();
    house.strict(&house.server.clone());
    // Another pod of the same account, so that the node goes on to be `server` for others.
    let (_, two) = house.nodes.clone();
    let second = house.bed.pod(&two, "second").unwrap();
    house.mesh.replace(&[], std::slice::from_ref(&second), "server").unwrap();
    house.two.wait_captured(2).unwrap();
    let request =
        connect_to(&format!("{}:8080", house.server.ip), &format!("for=\"{}:4242\"", house.client.ip));
    let get = |stream: u32| {
        frame(kind::DATA, 0, stream, format!("{CANARY} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
    };
    let (client, server) = (house.client.clone(), house.server.clone());
    let runtime = runtime();
    let mut peer = house.taken(&runtime, "client", "server");
    runtime.block_on(async {
        assert_eq!(peer.ask(1, &request).await.unwrap(), [0x88]);
        peer.send(&get(1)).await.unwrap();
        assert!(!peer.next_of(kind::DATA).await.unwrap().payload.is_empty());
    });
    nginx.logged("canary").unwrap();

    // The pod ends, and its address is given to one of another account.
    drop(nginx);
    house.bed.end(&two, &server).unwrap();
    let next = house.bed.pod(&two, "next").unwrap();
    assert_eq!(next.ip, server.ip);
    house.mesh.replace(std::slice::from_ref(&server), std::slice::from_ref(&next), "next").unwrap();
    eventually(Duration::from_secs(20), "the next one is captured", || {
        let all = house.two.json("workloads")?;
        let next = all.as_array().into_iter().flatten().find(|w| w["name"] == "next").cloned();
        Ok(next.is_some_and(|w| w["state"] == "captured"))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    let nginx = Nginx::start(&house.bed, &next).unwrap();
    let wire = Wire::within_pod(&house.bed, &next).unwrap();

    // What was open has ended, and what comes on the old tunnel is refused: it was proved to be for another.
    let answer = runtime.block_on(async {
        let _ = peer.send(&get(1)).await;
        peer.ask(3, &request).await.unwrap()
    });
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains("destination_identity_mismatch"), "{answer}\n{}", house.logs());
    assert_eq!(house.refused_inbound("destination_identity_mismatch"), 1);
    assert!(!nginx.access_log().contains("canary"), "{}", nginx.access_log());
    // Who asks by the agent reaches the new one, as itself.
    let url = format!("http://{}:8080/who", next.ip);
    let said = client.place.run("curl", &["-sS", "--max-time", "20", &url]);
    let said = said.unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    assert!(said.starts_with(&client.ip.to_string()), "{said}");
    let seen = wire.finish().unwrap();
    assert_eq!(lark_testbed::occurrences(&seen, CANARY), 0);
    assert!(lark_testbed::occurrences(&seen, "GET /who") >= 1, "the capture does not see what is delivered");
    let edges = house.one.json("edges").unwrap().to_string();
    assert!(edges.contains("spiffe://cluster.local/ns/shop/sa/next"), "{edges}");
}

/// Keeps that many connections open and says nothing, anew for each that the other end closes; tells how many stay.
const MUTE: &str = r"
import select, socket, sys, time
host, count = sys.argv[1], int(sys.argv[2])
def connect():
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex((host, 15020))
    return s
held = [connect() for _ in range(count)]
first = time.time() + 1
while True:
    time.sleep(0.02)
    closed, _, _ = select.select(held, [], [], 0)
    if first and time.time() > first:
        print('open', count - len(closed), flush=True)
        first = None
    for s in closed:
        held.remove(s)
        s.close()
        held.append(connect())
";

#[test]
fn a_pod_that_floods_metrics_keeps_neither_probes_nor_others_out() {
    let house = House::new();
    let node = &house.nodes.0;
    let mut mute = house.client.place.command("python3");
    mute.args(["-c", MUTE, &node.ip.to_string(), "400"]);
    let mute = house.client.place.start(mute, &house.bed.directory().join("mute.log")).unwrap();
    eventually(Duration::from_secs(20), "it floods", || Ok(mute.log().contains("open"))).unwrap();
    // As often as a kubelet asks at least, and no longer than it waits.
    for path in ["healthz", "readyz", "metrics"] {
        let url = format!("http://{}:15020/{path}", node.ip);
        let ask = |place: &lark_testbed::Place| {
            for _ in 0..20 {
                place.run("curl", &["-sSf", "--max-time", "1", "-o", "/dev/null", &url]).unwrap();
            }
        };
        ask(&node.place);
        ask(&house.neighbour.place);
    }
    let held: u64 = mute.log().split_whitespace().last().unwrap().parse().unwrap();
    assert!(held <= 16, "{}", mute.log());
    let fault = "a pod keeps many connections to the agent's metrics open and says nothing";
    Record::told(fault, 400, format!("{held} of 400 stayed; 120 of 120 others answered")).unwrap();
}

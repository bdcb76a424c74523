use super::*;
use crate::capture::Wanted;
use crate::snapshot::fixture::{self, snapshot};
use proptest::prelude::*;

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

/// From web on node one to db on node two, with one fact changed.
fn ask(client: &str, server: &str, peer: &str, authority: &str, source: &str) -> Admission {
    ask_by(&snapshot(), client, server, peer, authority, source)
}

fn ask_by(
    snapshot: &Snapshot,
    client: &str,
    server: &str,
    peer: &str,
    authority: &str,
    source: &str,
) -> Admission {
    let claim = Claim {
        client: &id(client),
        server: &id(server),
        peer: peer.parse().unwrap(),
        authority: authority.parse().unwrap(),
        source: source.parse().unwrap(),
    };
    admit(snapshot, "two", &claim)
}

fn told(admission: Admission) -> String {
    match admission {
        Admission::Deliver { destination, source } => format!("{} -> {}", source.name, destination.name),
        Admission::Wait(r) => format!("wait {}", r.reason),
        Admission::Refuse(r) => format!("refuse {}", r.reason),
    }
}

#[test]
fn each_fact_is_checked() {
    let cases = [
        ("web", "db", "192.168.0.1", "10.0.2.1:80", "10.0.1.1:5", "web -> db"),
        ("web", "db", "192.168.0.1", "[fd02::1]:80", "[fd01::1]:5", "web -> db"),
        ("ingress", "db", "192.168.0.1", "10.0.2.1:80", "192.168.0.1:5", "ingress -> db"),
        // Authority.
        ("web", "db", "192.168.0.1", "10.0.2.1:0", "10.0.1.1:5", "refuse authority_port_zero"),
        ("web", "db", "192.168.0.1", "10.0.1.2:80", "10.0.1.1:5", "wait not_my_node"),
        ("web", "db", "192.168.0.1", "10.0.2.2:80", "10.0.1.1:5", "wait not_my_workload"),
        ("web", "db", "192.168.0.1", "10.0.9.9:80", "10.0.1.1:5", "wait not_my_workload"),
        ("web", "db", "192.168.0.1", "127.0.0.1:80", "10.0.1.1:5", "refuse authority_local"),
        ("web", "db", "192.168.0.1", "[::ffff:127.9.9.9]:80", "10.0.1.1:5", "refuse authority_local"),
        ("web", "db", "192.168.0.1", "[::1]:80", "10.0.1.1:5", "refuse authority_local"),
        ("web", "db", "192.168.0.1", "[fe80::1]:80", "10.0.1.1:5", "refuse authority_local"),
        ("web", "db", "192.168.0.1", "169.254.169.254:80", "10.0.1.1:5", "refuse authority_local"),
        ("web", "db", "192.168.0.1", "0.0.0.0:80", "10.0.1.1:5", "refuse authority_local"),
        ("web", "db", "192.168.0.1", "10.96.0.1:5432", "10.0.1.1:5", "refuse authority_service"),
        ("web", "db", "192.168.0.1", "192.168.0.2:15008", "10.0.1.1:5", "refuse authority_agent"),
        ("web", "db", "192.168.0.1", "10.0.2.3:80", "10.0.1.1:5", "refuse destination_identity_mismatch"),
        // Source.
        ("cache", "db", "192.168.0.1", "10.0.2.1:80", "10.0.1.1:5", "wait source_unknown"),
        ("web", "db", "192.168.0.2", "10.0.2.1:80", "10.0.1.1:5", "wait source_unknown"),
        ("web", "db", "192.168.9.9", "10.0.2.1:80", "10.0.1.1:5", "wait source_unknown"),
        ("web", "db", "192.168.0.1", "10.0.2.1:80", "10.0.1.9:5", "wait source_unknown"),
        ("web", "db", "192.168.0.1", "10.0.2.1:80", "192.168.0.1:5", "wait source_unknown"),
        ("ingress", "db", "192.168.0.1", "10.0.2.1:80", "192.168.0.2:5", "wait source_unknown"),
        ("web", "db", "192.168.0.1", "10.0.2.1:80", "127.0.0.1:5", "wait source_unknown"),
    ];
    for (client, server, peer, authority, source, expected) in cases {
        assert_eq!(
            told(ask(client, server, peer, authority, source)),
            expected,
            "{client} {server} {peer} {authority} {source}"
        );
    }
}

/// A node that took over another's address while discovery still lists both: the address says that the
/// tunnel is of one of the two, and the certificate and the pod's own address say who it is.
#[test]
fn of_two_nodes_at_one_address_nobody_is_taken_for_another() {
    let (mut nodes, mut workloads, services) = fixture::mesh();
    nodes.push(fixture::node("three", "192.168.0.1"));
    workloads.push(fixture::workload("api", "10.0.3.1", "three", Wanted::ByNamespace));
    let snapshot = Snapshot::build(1, fixture::settings(), nodes, workloads, services).unwrap();
    for (client, source, expected) in [
        ("web", "10.0.1.1:5", "web -> db"),
        ("api", "10.0.3.1:5", "api -> db"),
        ("ingress", "192.168.0.1:5", "ingress -> db"),
        ("api", "10.0.1.1:5", "wait source_unknown"),
        ("web", "10.0.3.1:5", "wait source_unknown"),
        ("api", "192.168.0.1:5", "wait source_unknown"),
        // Of a third node.
        ("db", "10.0.2.1:5", "wait source_unknown"),
    ] {
        let told = told(ask_by(&snapshot, client, "db", "192.168.0.1", "10.0.2.1:80", source));
        assert_eq!(told, expected, "{client} {source}");
    }
}

proptest! {
    /// Whatever is claimed, what is delivered agrees with discovery in every fact.
    #[test]
    fn nothing_is_delivered_against_discovery(
        client in prop::sample::select(vec!["web", "cache", "db", "db2", "ingress", "nobody"]),
        server in prop::sample::select(vec!["web", "db", "db2", "db3", "nobody"]),
        peer in prop::sample::select(vec!["192.168.0.1", "192.168.0.2", "10.0.1.1"]),
        to in prop::sample::select(vec!["10.0.2.1", "10.0.2.2", "10.0.2.3", "10.0.1.1", "127.0.0.1", "10.96.0.1"]),
        from in prop::sample::select(vec!["10.0.1.1", "10.0.1.2", "10.0.2.1", "192.168.0.1", "127.0.0.1"]),
        port: u16,
    ) {
        if let Admission::Deliver { destination, source } =
            ask(client, server, peer, &format!("{to}:{port}"), &format!("{from}:{port}"))
        {
            prop_assert_eq!(&*destination.node, "two");
            prop_assert!(destination.capture.is_wanted() && port != 0);
            prop_assert_eq!(&destination.identity, &id(server));
            prop_assert_eq!(&source.identity, &id(client));
            prop_assert_eq!(peer, if &*source.node == "one" { "192.168.0.1" } else { "192.168.0.2" });
            prop_assert!(source.addresses.contains(&from.parse().unwrap()));
        }
    }
}

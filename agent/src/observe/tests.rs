use lark_core::observe::Secured;
use lark_core::reason::Reason;
use lark_core::view::Party;

use super::*;

fn opening(source: &str, destination: &str) -> Opening {
    let party = |name: &str| Party {
        namespace: "shop".to_owned(),
        name: format!("{name}-1"),
        owner: name.to_owned(),
        identity: format!("spiffe://cluster.local/ns/shop/sa/{name}"),
    };
    Opening {
        direction: Direction::Outbound,
        source: party(source),
        destination: party(destination),
        service: None,
        source_address: "10.0.0.1:1".parse().unwrap(),
        destination_address: "10.0.0.2:80".parse().unwrap(),
        peer: None,
    }
}

fn line<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines().filter(|l| l.starts_with(&format!("{name}{{"))).collect()
}

#[test]
fn bytes_move_while_a_connection_is_open() {
    let observer = Observer::new().unwrap();
    let connection = observer.open(opening("web", "db"));
    assert!(observer.edges().is_empty(), "an edge appeared before anything was proved");
    (connection.securer())(Secured::Mtls);
    connection.counters().add_sent(100);
    let text = observer.metrics(&vec![]).unwrap();
    assert_eq!(
        line(&text, "lark_proxy_sent_bytes_total"),
        [
            "lark_proxy_sent_bytes_total{destination_namespace=\"shop\",destination_workload=\"db\",direction=\"outbound\",secured=\"mtls\",source_namespace=\"shop\",source_workload=\"web\"} 100"
        ]
    );
    connection.counters().add_sent(11);
    connection.ended(lark_core::explain::Ending::Clean, None);
    let edges = observer.edges();
    assert_eq!((edges.len(), edges[0].connections, edges[0].open, edges[0].sent_bytes), (1, 1, 0, 111));
    assert_eq!(observer.open_connections(), 0);
}

#[test]
fn a_refusal_is_a_denied_edge_with_its_reason() {
    let observer = Observer::new().unwrap();
    observer
        .open(opening("web", "db"))
        .ended(lark_core::explain::Ending::Refused, Some((Reason::DialRefused, "nobody listens")));
    let edges = observer.edges();
    assert_eq!((edges[0].secured, edges[0].reason.as_deref()), (Secured::Denied, Some("dial_refused")));
    let text = observer.metrics(&vec![]).unwrap();
    assert!(
        text.contains(
            "lark_proxy_connections_refused_total{direction=\"outbound\",reason=\"dial_refused\"} 1"
        )
    );
}

#[test]
fn hostile_names_do_not_grow_the_table() {
    let observer = Observer::new().unwrap();
    for i in 0..edges::EDGES_MAX + 500 {
        let connection = observer.open(opening(&format!("w{i}"), "db"));
        (connection.securer())(Secured::Mtls);
        connection.ended(lark_core::explain::Ending::Clean, None);
    }
    let edges = observer.edges();
    assert_eq!(edges.len(), edges::EDGES_MAX + 1);
    assert_eq!(
        edges.iter().map(|e| e.connections).sum::<u64>(),
        u64::try_from(edges::EDGES_MAX).unwrap() + 500
    );
}

#[test]
fn a_connection_that_is_dropped_counts_as_lost() {
    let observer = Observer::new().unwrap();
    drop(observer.open(opening("web", "db")));
    let text = observer.metrics(&vec![]).unwrap();
    assert!(text.contains("lark_proxy_connections_ended_total{direction=\"outbound\",how=\"lost\"} 1"));
}

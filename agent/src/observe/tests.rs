use lark_core::observe::Secured;
use lark_core::reason::Reason;
use lark_core::recognise::{Event, Latency, Method, Opaque, Protocol, Response};
use lark_core::view::Party;

use super::*;

fn opening(source: &str, destination: &str) -> Opening {
    let party = |name: &str| Party {
        namespace: "shop".into(),
        name: format!("{name}-1").into(),
        owner: name.into(),
        identity: format!("spiffe://cluster.local/ns/shop/sa/{name}").into(),
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
fn what_its_source_gave_up_in_a_tunnel_is_no_plaintext() {
    let observer = Observer::new().unwrap();
    let connection = observer.open(opening("web", "db"));
    connection.has_tunnel(true);
    connection.ended(lark_core::explain::Ending::ResetBySource, None);
    assert_eq!(observer.edges().iter().map(|edge| edge.secured).collect::<Vec<_>>(), [Secured::Mtls]);
}

#[test]
fn what_a_lost_tunnel_brought_is_no_plaintext() {
    let observer = Observer::new().unwrap();
    let inbound = |peer: Option<&str>| Opening {
        direction: Direction::Inbound,
        peer: peer.map(|peer| peer.parse().unwrap()),
        ..opening("web", "db")
    };
    drop(observer.open(inbound(Some("192.0.2.1:15008"))));
    assert_eq!(observer.edges().iter().map(|edge| edge.secured).collect::<Vec<_>>(), [Secured::Mtls]);
    // Of these nobody knows what would have secured them, and nothing was said in them.
    drop(observer.open(inbound(None)));
    drop(observer.open(opening("web", "db")));
    assert_eq!(observer.edges().len(), 1);
}

#[test]
fn a_connection_that_ends_while_edges_are_added_up_counts_once() {
    let observer = Observer::new().unwrap();
    let connection = observer.open(opening("web", "db"));
    (connection.securer())(Secured::Mtls);
    connection.counters().add_sent(100);
    let open = observer.0.open.all();
    connection.ended(lark_core::explain::Ending::Clean, None);
    let edges = locked(&observer.0.edges).with_open(&open);
    assert_eq!((edges.len(), edges[0].connections, edges[0].open, edges[0].sent_bytes), (1, 1, 0, 100));
}

#[test]
fn a_connection_that_both_ends_would_deny_under_dry_run_is_one() {
    let observer = Observer::new().unwrap();
    let connection = observer.open(opening("web", "db"));
    for policy in ["egress", "ingress"] {
        connection.would_deny(&[policy.to_owned()]);
    }
    let text = observer.metrics(&vec![]).unwrap();
    assert!(text.contains("lark_policy_dry_run_denials_total{direction=\"outbound\"} 1"), "{text}");
}

#[test]
fn what_the_kernel_measures_is_told_of_edges_and_of_no_others() {
    let observer = Observer::new().unwrap();
    for measured in [(300, 2), (500, 1)] {
        let connection = observer.open(opening("web", "db"));
        (connection.securer())(Secured::Plaintext);
        connection.counters().measure(measured.0, measured.1);
        connection.ended(lark_core::explain::Ending::Clean, None);
    }
    (observer.open(opening("web", "cache")).securer())(Secured::Mtls);
    let text = observer.metrics(&vec![]).unwrap();
    let last = |name| line(&text, name).iter().map(|l| l.rsplit(' ').next().unwrap()).collect::<Vec<_>>();
    assert_eq!(last("lark_proxy_round_trip_seconds"), ["0.0005"]);
    assert_eq!(last("lark_proxy_retransmits_total"), ["3"]);
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

fn answered(status: u16, millis: u64) -> Event {
    let first_byte = Duration::from_millis(millis);
    Event::Response(Response {
        protocol: Protocol::Http1,
        method: Method::Get,
        status,
        grpc_status: None,
        latency: Some(Latency { first_byte, last_byte: first_byte * 2 }),
    })
}

#[test]
fn requests_are_counted_by_edge_and_shown_as_classic_histograms() {
    let observer = Observer::new().unwrap();
    let connection = observer.open(opening("web", "db"));
    let mut told = connection.requests().unwrap();
    told(Event::Known(Protocol::Http1));
    for event in [answered(204, 3), answered(503, 300), Event::Opaque(Opaque::Upgraded)] {
        told(event);
    }
    let view = &observer.connections()[0];
    assert_eq!((view.protocol.as_str(), view.requests), ("http1", 2));
    let text = observer.metrics(&vec![]).unwrap();
    let edge = "direction=\"outbound\",source_namespace=\"shop\",source_workload=\"web\",destination_namespace=\"shop\",destination_workload=\"db\"";
    for expected in [
        format!("lark_proxy_requests_total{{{edge},protocol=\"http1\",status=\"2xx\",result=\"success\"}} 1"),
        format!("lark_proxy_requests_total{{{edge},protocol=\"http1\",status=\"5xx\",result=\"failure\"}} 1"),
        format!("lark_proxy_request_first_byte_seconds_bucket{{{edge},le=\"0.0025\"}} 0"),
        format!("lark_proxy_request_first_byte_seconds_bucket{{{edge},le=\"0.005\"}} 1"),
        format!("lark_proxy_request_duration_seconds_bucket{{{edge},le=\"+Inf\"}} 2"),
        format!("lark_proxy_request_duration_seconds_sum{{{edge}}} 0.606"),
        "# TYPE lark_proxy_requests_total counter".to_owned(),
        "# TYPE lark_proxy_request_duration_seconds histogram".to_owned(),
        "lark_proxy_connections_recognised_total{direction=\"outbound\",protocol=\"http1\"} 1".to_owned(),
        "lark_proxy_connections_opaque_total{direction=\"outbound\",reason=\"upgraded\"} 1".to_owned(),
    ] {
        assert!(text.lines().any(|line| line == expected), "no {expected} in\n{text}");
    }
}

#[test]
fn hostile_names_make_no_more_series_of_requests_than_there_may_be() {
    let observer = Observer::new().unwrap();
    for i in 0..requests::EDGES_MAX + 500 {
        let connection = observer.open(opening(&format!("w{i}"), "db"));
        (connection.requests().unwrap())(answered(200, 1));
    }
    let text = observer.metrics(&vec![]).unwrap();
    let counted = line(&text, "lark_proxy_requests_total");
    assert_eq!(counted.len(), requests::EDGES_MAX + 1);
    let other = counted.iter().find(|line| line.contains("source_workload=\"other\""));
    assert!(other.is_some_and(|line| line.ends_with(" 500")), "{other:?}");
}

#[test]
fn switched_off_nothing_is_looked_at() {
    let observer = Observer::recognising(false).unwrap();
    assert!(observer.open(opening("web", "db")).requests().is_none());
}

#[tokio::test(start_paused = true)]
async fn the_last_hour_is_remembered_by_whom_was_asked_and_for_the_node() {
    let observer = Observer::new().unwrap();
    let clock = tokio::time::Instant::now();
    tokio::spawn(observer.clone().remember(move || 1_000 + clock.elapsed().as_secs()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let connection = observer.open(opening("web", "db"));
    (connection.securer())(Secured::Mtls);
    connection.counters().add_sent(100);
    (connection.requests().unwrap())(answered(503, 3));
    let denied = observer.open(opening("web", "mail"));
    denied.ended(lark_core::explain::Ending::Refused, Some((Reason::DialRefused, "nobody listens")));
    tokio::time::sleep(Duration::from_secs(20)).await;
    let history = observer.history();
    assert_eq!(history.at, [1_000, 1_015]);
    let told: Vec<_> = history
        .series
        .iter()
        .map(|s| {
            let now = [s.failures.last(), s.denied.last()].map(|n| n.copied().unwrap_or_default());
            (
                s.seen_by.as_str(),
                s.workload.as_str(),
                s.connections.as_slice(),
                now,
                s.bytes.iter().sum::<u64>(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("node", "", [0, 2].as_slice(), [1, 1], 100),
            ("client", "db", [1].as_slice(), [1, 0], 100),
            ("client", "mail", [1].as_slice(), [0, 1], 0),
        ]
    );
}

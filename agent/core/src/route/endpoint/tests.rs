use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::snapshot::{Traffic, fixture::mesh};

/// An endpoint as `address`, `node` and `zone`, with hints for zones and nodes.
fn endpoint(last: u8, node: &str, zone: &str, for_zones: &[&str], for_nodes: &[&str]) -> Endpoint {
    let names = |all: &[&str]| all.iter().map(|n| Arc::from(*n)).collect();
    let topology = Topology {
        node: Some(node.into()),
        zone: Some(zone.into()),
        for_zones: names(for_zones),
        for_nodes: names(for_nodes),
    };
    Endpoint { topology: Some(Arc::new(topology)), ..Endpoint::new(IpAddr::from([10, 0, 2, last]), true) }
}

fn service(endpoints: Vec<Endpoint>, traffic: Traffic) -> Service {
    let (_, _, mut services) = mesh();
    Service { endpoints, traffic, ..services.remove(0) }
}

const ASKED: &str = "10.96.0.1:5432";

/// The last parts of the addresses that a client on node `one` in zone `a` is led to.
fn reached(service: &Service) -> Vec<u8> {
    reached_by(service, &Client { node: "one", zone: &|| Some("a"), before: None })
}

fn reached_by<'c>(service: &Service, client: &'c Client<'c>) -> Vec<u8> {
    let mut found = BTreeSet::new();
    for i in 0..256_u64 {
        let dice = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if let Ok(SocketAddr::V4(v4)) = choose(service, ASKED.parse().unwrap(), client, |_| 0, dice) {
            found.insert(v4.ip().octets()[3]);
        }
    }
    found.into_iter().collect()
}

fn refusal(service: &Service) -> Reason {
    let client = Client { node: "one", zone: &|| Some("a"), before: None };
    choose(service, ASKED.parse().unwrap(), &client, |_| 0, 7).unwrap_err()
}

#[test]
fn hints_count_if_every_ready_endpoint_has_one_and_one_is_for_the_client() {
    let zones = |first: &[&str], second: &[&str]| {
        service(
            vec![endpoint(1, "one", "a", first, &[]), endpoint(2, "two", "b", second, &[])],
            Traffic::default(),
        )
    };
    assert_eq!(reached(&zones(&["a"], &["b"])), [1]);
    assert_eq!(reached(&zones(&["b"], &["a", "b"])), [2]);
    assert_eq!(reached(&zones(&["b"], &["c"])), [1, 2]);
    assert_eq!(reached(&zones(&["a"], &[])), [1, 2]);
    assert_eq!(reached(&zones(&[], &["a"])), [1, 2]);
    let mut one_is_not_ready = zones(&["a"], &[]);
    one_is_not_ready.endpoints[1].ready = false;
    assert_eq!(reached(&one_is_not_ready), [1]);
    // Of a node whose zone nobody knows.
    let nowhere = Client { node: "one", zone: &|| None, before: None };
    assert_eq!(reached_by(&zones(&["a"], &["b"]), &nowhere), [1, 2]);
}

#[test]
fn hints_for_nodes_come_before_hints_for_zones() {
    let both = |first: &[&str], second: &[&str]| {
        let endpoints = vec![
            endpoint(1, "two", "a", &["a"], first),
            endpoint(2, "three", "a", &["a"], second),
            endpoint(3, "four", "b", &["b"], &["four"]),
        ];
        service(endpoints, Traffic::default())
    };
    assert_eq!(reached(&both(&["one"], &["three"])), [1]);
    assert_eq!(reached(&both(&["two"], &["three"])), [1, 2]);
    assert_eq!(reached(&both(&["one"], &[])), [1, 2]);
}

#[test]
fn without_hints_the_services_own_preference_counts() {
    let with = |near| {
        let endpoints = vec![
            endpoint(1, "one", "a", &[], &[]),
            endpoint(2, "two", "a", &[], &[]),
            endpoint(3, "three", "b", &[], &[]),
        ];
        service(endpoints, Traffic { near, ..Traffic::default() })
    };
    assert_eq!(reached(&with(Near::Any)), [1, 2, 3]);
    assert_eq!(reached(&with(Near::Zone)), [1, 2]);
    assert_eq!(reached(&with(Near::Node)), [1]);
    let elsewhere = Client { node: "nine", zone: &|| Some("a"), before: None };
    assert_eq!(reached_by(&with(Near::Node), &elsewhere), [1, 2]);
    let far = Client { node: "nine", zone: &|| Some("z"), before: None };
    assert_eq!(reached_by(&with(Near::Node), &far), [1, 2, 3]);
}

#[test]
fn local_addresses_are_served_by_the_callers_node_alone() {
    let asked: SocketAddr = ASKED.parse().unwrap();
    let traffic = Traffic { local_at: vec![asked.ip()], ..Traffic::default() };
    let endpoints = vec![endpoint(1, "one", "a", &["b"], &[]), endpoint(2, "two", "a", &["a"], &[])];
    let mut local = service(endpoints, traffic);
    // Hints are for traffic that may go everywhere.
    assert_eq!(reached(&local), [1]);
    local.endpoints.remove(0);
    assert_eq!(refusal(&local), Reason::NoReadyEndpoint);
    // At another of its addresses the same Service serves everybody.
    local.traffic.local_at.clear();
    assert_eq!(reached(&local), [2]);
}

#[test]
fn an_endpoint_that_is_ending_serves_while_nothing_else_is_ready() {
    let mut draining = endpoint(1, "one", "a", &[], &[]);
    (draining.ready, draining.draining) = (false, true);
    let mut both = service(vec![draining, endpoint(2, "two", "b", &[], &[])], Traffic::default());
    assert_eq!(reached(&both), [2]);
    both.endpoints[1].ready = false;
    assert_eq!(reached(&both), [1]);
    both.endpoints[0].draining = false;
    assert_eq!(refusal(&both), Reason::NoReadyEndpoint);
}

#[test]
fn an_unknown_endpoint_is_never_taken_and_alone_is_a_refusal_of_its_own() {
    let mut unknown = endpoint(1, "one", "a", &[], &[]);
    unknown.unknown = true;
    let mut both = service(vec![unknown, endpoint(2, "two", "b", &[], &[])], Traffic::default());
    assert_eq!(reached(&both), [2]);
    both.endpoints[1].ready = false;
    assert_eq!(refusal(&both), Reason::DestinationUnknown);
    both.endpoints[0].ready = false;
    assert_eq!(refusal(&both), Reason::NoReadyEndpoint);
}

#[test]
fn a_client_stays_with_its_endpoint_while_that_is_usable() {
    let mut pair = service(
        vec![endpoint(1, "one", "a", &[], &[]), endpoint(2, "two", "b", &[], &[])],
        Traffic::default(),
    );
    let client = Client { node: "one", zone: &|| Some("a"), before: Some(IpAddr::from([10, 0, 2, 2])) };
    assert_eq!(reached_by(&pair, &client), [2]);
    pair.endpoints[1].ready = false;
    assert_eq!(reached_by(&pair, &client), [1]);
}

#[test]
fn each_endpoint_is_reached_at_its_own_port() {
    let mut odd = endpoint(1, "one", "a", &[], &[]);
    odd.ports = Some([(5432, 9999)].into());
    let mut none = endpoint(2, "one", "a", &[], &[]);
    none.ports = Some(Arc::new([]));
    let service = service(vec![odd, none], Traffic::default());
    let client = Client { node: "one", zone: &|| None, before: None };
    for dice in 0..32 {
        let chosen = choose(&service, ASKED.parse().unwrap(), &client, |_| 0, dice);
        assert_eq!(chosen, Ok("10.0.2.1:9999".parse().unwrap()));
    }
}

proptest! {
    /// Whatever the states and hints: what is chosen is ready, or ending with nothing ready; it is known, of
    /// the family, on the node where it must be; and something is chosen whenever something could be.
    #[test]
    fn what_is_chosen_may_be_used(states in proptest::collection::vec((0..5_u8, 0..4_u8, 0..4_u8), 0..6), local: bool, dice: u64, near in 0..3_u8) {
        let zones = ["a", "b", "c", ""];
        let endpoints: Vec<Endpoint> = (1_u8..).zip(&states).map(|(last, (state, zone, hint))| {
            let zone = zones[usize::from(*zone)];
            let hints = [zones[usize::from(*hint)]];
            let hints = if hints == [""] { &[][..] } else { &hints };
            let mut next = endpoint(last, if last % 2 == 0 { "one" } else { "two" }, zone, hints, &[]);
            next.ready = matches!(state, 0 | 3);
            next.draining = *state == 1;
            next.unknown = *state == 3;
            next
        }).collect();
        let asked: SocketAddr = ASKED.parse().unwrap();
        let near = [Near::Any, Near::Zone, Near::Node][usize::from(near)];
        let local_at = if local { vec![asked.ip()] } else { Vec::new() };
        let service = service(endpoints, Traffic { near, local_at, affinity: None });
        let client = Client { node: "one", zone: &|| Some("a"), before: None };
        let here = |e: &&Endpoint| !local || e.topology.as_ref().unwrap().node.as_deref() == Some("one");
        let usable = |of: fn(&Endpoint) -> bool| service.endpoints.iter().filter(here).filter(|e| !e.unknown && of(e)).count();
        match choose(&service, asked, &client, |_| 0, dice) {
            Ok(address) => {
                let chosen = service.endpoints.iter().find(|e| e.address == address.ip()).unwrap();
                prop_assert!(!chosen.unknown && here(&chosen));
                prop_assert!(chosen.ready || (chosen.draining && usable(|e| e.ready) == 0));
            }
            Err(_) => prop_assert_eq!(usable(|e| e.ready || e.draining), 0),
        }
    }
}

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::capture::Wanted;
use crate::snapshot::fixture::{settings, snapshot, workload};
use crate::snapshot::{Change, Contested, Endpoint, ServicePort, Traffic};

fn set(all: impl IntoIterator<Item = MeshDestination>) -> HashSet<String> {
    all.into_iter().map(|d| format!("{d:?}")).collect()
}

/// What the map holds after the changes.
fn after(before: &Snapshot, changes: &DestinationChanges) -> HashSet<String> {
    let mut map: HashMap<_, _> = mesh_destinations(before).into_iter().map(|d| (d.key(), d)).collect();
    for key in &changes.removed {
        assert!(map.remove(key).is_some(), "{key:?} was not there");
    }
    map.extend(changes.written.iter().map(|d| (d.key(), *d)));
    set(map.into_values())
}

/// A change by numbers: few names and addresses, so that they meet.
fn change((kind, name, address, bits): (u8, u8, u8, u8)) -> Change {
    let (name, ready) = (format!("n{}", name % 4), bits & 1 == 1);
    let capture = if bits & 2 == 2 { Wanted::ByNamespace } else { Wanted::NotAsked };
    let address = format!("10.0.9.{}", address % 6);
    match kind % 4 {
        0 => Change::WorkloadGone(format!("uid-{name}").into()),
        1 => Change::ServiceGone { namespace: "shop".into(), name: name.into() },
        2 => {
            let mut workload = workload(&name, &address, "one", capture);
            let address = workload.addresses[0];
            let contested = Contested { address, claims: 3, other: "pod shop/n0".to_owned() };
            workload.contested = (bits & 12 == 12).then_some(contested).into_iter().collect();
            Change::Workload(workload)
        }
        _ => Change::Service(Service {
            addresses: vec![format!("10.96.9.{}", name.as_bytes()[1]).parse().unwrap()],
            namespace: "shop".into(),
            name: name.into(),
            // One in eight has more ports than entries.
            ports: (0..if bits & 56 == 56 { 1025 } else { 1 })
                .map(|n| ServicePort { name: None, port: 80 + u16::from(bits & 4) + n, target_port: 80 })
                .collect(),
            endpoints: vec![Endpoint::new(address.parse().unwrap(), ready)],
            traffic: Traffic::default(),
        }),
    }
}

proptest! {
    /// However snapshots follow each other, what is written and removed makes of the one's destinations the
    /// other's; and what the map says of an address is what is said of it by name.
    #[test]
    fn changes_make_of_one_map_the_other(steps: Vec<Vec<(u8, u8, u8, u8)>>) {
        let first = snapshot();
        let mut now = first.clone();
        for step in steps {
            // One that would make an address mean two things is refused, and the one before stays.
            let Ok(next) = now.with(now.generation + 1, step.into_iter().map(change)) else { continue };
            prop_assert_eq!(after(&now, &changed_destinations(&now, &next)), set(mesh_destinations(&next)));
            now = next;
        }
        prop_assert_eq!(after(&first, &changed_destinations(&first, &now)), set(mesh_destinations(&now)));
        for d in mesh_destinations(&now) {
            prop_assert!(is_mesh_destination(&now, (d.address, d.port.unwrap_or(7)).into()));
        }
    }
}

#[test]
fn a_service_of_very_many_ports_has_an_entry_for_any_and_comes_last() {
    let wide = Service {
        addresses: vec!["10.96.9.1".parse().unwrap(), "10.96.9.2".parse().unwrap()],
        namespace: "a".into(),
        name: "a".into(),
        ports: (1..=600).map(|port| ServicePort { name: None, port, target_port: 80 }).collect(),
        endpoints: vec![Endpoint::new("10.0.2.1".parse().unwrap(), true)],
        traffic: Traffic::default(),
    };
    let narrow = Service {
        addresses: wide.addresses[1..].to_vec(),
        name: "b".into(),
        ports: wide.ports[..512].to_vec(),
        ..wide.clone()
    };
    let with = |service| mesh_destinations(&snapshot().with(2, [Change::Service(service)]).unwrap());
    let few = mesh_destinations(&snapshot()).len();
    let all = with(wide.clone());
    assert_eq!(all.len(), few + 2);
    assert!(
        all.iter()
            .take(6)
            .all(|d| d.port.is_none() && d.address.to_string().starts_with("10.0.") || d.address.is_ipv6())
    );
    assert_eq!(with(narrow.clone()).len(), few + 512);
    assert!(with(narrow).iter().rev().take(512).all(|d| d.address.to_string() == "10.96.9.2"));
    let now = snapshot().with(2, [Change::Service(wide)]).unwrap();
    for (asked, taken) in [("10.96.9.1:600", true), ("10.96.9.1:601", true), ("10.96.0.1:601", false)] {
        assert_eq!(is_mesh_destination(&now, asked.parse().unwrap()), taken, "{asked}");
    }
}

#[test]
fn snapshots_that_share_nothing_differ_by_what_they_say() {
    let (one, other) = (snapshot(), snapshot());
    assert_eq!(changed_destinations(&one, &other), DestinationChanges::default());
    let nothing = Snapshot::empty(settings());
    assert_eq!(changed_destinations(&nothing, &one).written.len(), mesh_destinations(&one).len());
    assert_eq!(changed_destinations(&one, &nothing).removed.len(), mesh_destinations(&one).len());
}

#[test]
fn a_service_follows_its_endpoints_capture() {
    let before = snapshot();
    let unlabelled = |name: &str, address| Change::Workload(workload(name, address, "two", Wanted::NotAsked));
    let next = before.with(2, [unlabelled("db", "10.0.2.1,fd02::1"), unlabelled("db3", "10.0.2.3")]).unwrap();
    let mut removed: Vec<String> = changed_destinations(&before, &next)
        .removed
        .iter()
        .map(|(address, port)| format!("{address} {port:?}"))
        .collect();
    removed.sort();
    let expected =
        ["10.0.2.1 None", "10.0.2.3 None", "10.96.0.1 Some(5432)", "fd02::1 None", "fd96::1 Some(5432)"];
    assert_eq!(removed, expected);
}

use super::*;
use crate::capture::Wanted;
use crate::snapshot::fixture::{snapshot, workload};
use crate::snapshot::{Change, Contested};
use proptest::prelude::*;

fn go(to: &str) -> Decision {
    decide(&snapshot(), "one", to.parse().unwrap(), |_, _| None, |_| 0, 0)
}

fn told(decision: &Decision) -> String {
    let endpoint = decision.endpoint.map(|e| e.to_string()).unwrap_or_default();
    match &decision.route {
        Route::Tunnel { destination, address, node } => {
            format!("tunnel {} {address} {node}", destination.name)
        }
        Route::Local { destination, address } => format!("local {} {address}", destination.name),
        Route::Passthrough { address, .. } => format!("passthrough {address}"),
        Route::Deny { reason } => format!("deny {reason} {endpoint}"),
    }
}

#[test]
fn each_destination_takes_its_way() {
    for (to, expected) in [
        ("10.0.2.1:80", "tunnel db 10.0.2.1:80 192.168.0.2:15008"),
        ("[fd02::1]:80", "tunnel db [fd02::1]:80 192.168.0.2:15008"),
        ("[::ffff:10.0.2.1]:80", "tunnel db 10.0.2.1:80 192.168.0.2:15008"),
        ("10.0.1.2:80", "local cache 10.0.1.2:80"),
        ("10.0.1.1:80", "local web 10.0.1.1:80"),
        ("10.0.2.2:80", "passthrough 10.0.2.2:80"),
        ("9.9.9.9:80", "deny destination_unknown 9.9.9.9:80"),
        ("[fd96::1]:5432", "tunnel db [fd02::1]:15432 192.168.0.2:15008"),
        ("10.96.0.1:80", "deny no_such_port "),
    ] {
        assert_eq!(told(&go(to)), expected, "{to}");
    }
}

#[test]
fn an_address_that_a_captured_workload_and_a_node_claim_is_refused() {
    let claimed = |capture: Wanted| {
        let mut crook = workload("crook", "192.168.0.2", "one", capture);
        let address = crook.addresses[0];
        crook.contested = [Contested { address, claims: 2, other: "node two".to_owned() }].into();
        let mesh = snapshot();
        let now = mesh.with(2, [Change::Workload(crook)]).unwrap();
        let asked = "192.168.0.2:80".parse().unwrap();
        let way = |mesh: &Snapshot| told(&decide(mesh, "one", asked, |_, _| None, |_| 0, 0));
        assert_eq!(way(&mesh), "passthrough 192.168.0.2:80");
        let after = now.with(3, [Change::WorkloadGone("uid-crook".into())]).unwrap();
        assert_eq!(way(&after), "passthrough 192.168.0.2:80");
        (way(&now), is_mesh_destination(&now, asked))
    };
    assert_eq!(claimed(Wanted::ByWorkload), ("deny destination_unknown 192.168.0.2:80".to_owned(), true));
    assert_eq!(claimed(Wanted::NotAsked), ("passthrough 192.168.0.2:80".to_owned(), false));
}

#[test]
fn what_a_service_names_and_nobody_knows_is_no_way_for_a_strict_source() {
    let mut mesh = snapshot();
    mesh.mesh.cluster_ranges = vec!["10.0.0.0/8".parse().unwrap(), "192.168.0.0/16".parse().unwrap()];
    let way_to = |name: [&str; 2], to: &str, mtls: crate::mode::Mtls| {
        let service = Service {
            addresses: vec!["10.96.9.1".parse().unwrap()],
            namespace: name[0].into(),
            name: name[1].into(),
            ports: vec![crate::snapshot::ServicePort { name: None, port: 80, target_port: 80 }],
            endpoints: vec![crate::snapshot::Endpoint::new(to.parse().unwrap(), true)],
            traffic: crate::snapshot::Traffic::default(),
        };
        let mut source = workload("web", "10.0.1.1", "one", Wanted::ByWorkload);
        source.mode.mtls = mtls;
        let now = mesh.with(2, [Change::Service(service)]).unwrap();
        let asked = "10.96.9.1:80".parse().unwrap();
        told(&decide(&now, "one", asked, |_, _| None, |_| 0, 0).kept_by(&now, &source))
    };
    let way = |to: &str, mtls| way_to(["shop", "mirrored"], to, mtls);
    use crate::mode::Mtls::{Permissive, Strict};
    assert_eq!(way_to(["default", "kubernetes"], "10.0.9.9", Strict), "passthrough 10.0.9.9:80");
    assert!(way_to(["shop", "kubernetes"], "10.0.9.9", Strict).starts_with("deny"));
    for (to, permissive, strict) in [
        // A pod that was not told of yet, perhaps.
        ("10.0.9.9", "passthrough 10.0.9.9:80", "deny destination_unknown 10.0.9.9:80"),
        ("203.0.113.9", "passthrough 203.0.113.9:80", "passthrough 203.0.113.9:80"),
        // A node, and whom discovery knows as not captured.
        ("192.168.0.2", "passthrough 192.168.0.2:80", "passthrough 192.168.0.2:80"),
        ("10.0.2.2", "passthrough 10.0.2.2:80", "passthrough 10.0.2.2:80"),
    ] {
        assert_eq!(
            (way(to, Permissive), way(to, Strict)),
            (permissive.to_owned(), strict.to_owned()),
            "{to}"
        );
    }
}

#[test]
fn on_one_node_by_mtls_leads_to_the_own_agent() {
    let mut snapshot = snapshot();
    snapshot.mesh.same_node = SameNode::Mtls;
    let way = |to: &str| told(&decide(&snapshot, "one", to.parse().unwrap(), |_, _| None, |_| 0, 0));
    assert_eq!(way("10.0.1.2:80"), "tunnel cache 10.0.1.2:80 192.168.0.1:15008");
    assert_eq!(way("10.0.2.1:80"), "tunnel db 10.0.2.1:80 192.168.0.2:15008");
}

#[test]
fn the_less_loaded_of_two_is_taken() {
    let asked = "10.96.0.1:5432".parse().unwrap();
    let load = |a: IpAddr| u32::from(a == "10.0.2.1".parse::<IpAddr>().unwrap());
    // Draws the first and the second ready endpoint.
    let dice = 1_u64 << 32;
    assert_eq!(
        told(&decide(&snapshot(), "one", asked, |_, _| None, load, dice)),
        "passthrough 10.0.2.2:15432"
    );
    let none = |_| 0;
    assert_eq!(
        told(&decide(&snapshot(), "one", asked, |_, _| None, none, dice)),
        "tunnel db 10.0.2.1:15432 192.168.0.2:15008"
    );
}

#[test]
fn the_kernel_gets_captured_pods_and_their_services() {
    let mut told: Vec<String> = mesh_destinations(&snapshot())
        .iter()
        .map(|d| format!("{}:{} {:?}", d.address, d.port.map_or("*".to_owned(), |p| p.to_string()), d.action))
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            "10.0.1.1:* Redirect",
            "10.0.1.2:* Redirect",
            "10.0.2.1:* Redirect",
            "10.0.2.3:* Redirect",
            "10.96.0.1:5432 Redirect",
            "fd01::1:* Redirect",
            "fd02::1:* Redirect",
            "fd96::1:5432 Redirect",
        ]
    );
}

proptest! {
    #[test]
    fn an_unready_endpoint_is_never_chosen(dice: u64, loads: [u8; 4]) {
        let asked = "10.96.0.1:5432".parse().unwrap();
        let load = |a: IpAddr| match a { IpAddr::V4(v4) => u32::from(loads[usize::from(v4.octets()[3] % 4)]), IpAddr::V6(_) => 0 };
        let endpoint = decide(&snapshot(), "one", asked, |_, _| None, load, dice).endpoint.unwrap();
        prop_assert_ne!(endpoint.ip(), "10.0.2.3".parse::<IpAddr>().unwrap());
        prop_assert!(endpoint.is_ipv4());
    }

    #[test]
    fn equal_load_spreads(seed: u64) {
        let asked = "10.96.0.1:5432".parse().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for i in 0..64_u64 {
            let dice = (seed ^ i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            seen.insert(decide(&snapshot(), "one", asked, |_, _| None, |_| 0, dice).endpoint);
        }
        prop_assert_eq!(seen.len(), 2);
    }

    /// A captured destination is never dialled in plaintext.
    #[test]
    fn what_is_captured_never_passes_through(bits: u32, dice: u64, service: bool) {
        let host = if service { "10.96.0.1".to_owned() } else { format!("10.0.{}.{}", 1 + (bits & 1), 1 + (bits >> 1) % 4) };
        let asked = format!("{host}:5432").parse().unwrap();
        let decision = decide(&snapshot(), "one", asked, |_, _| None, |_| 0, dice);
        if let Route::Passthrough { address, .. } = decision.route {
            let snapshot = snapshot();
            prop_assert!(!snapshot.workload_by_address(address.ip()).is_some_and(|w| w.capture.is_wanted()));
        }
    }
}

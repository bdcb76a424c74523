use core::net::IpAddr;

use proptest::prelude::*;

use super::*;

const STALE: u64 = 2_000_000_000;

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn pod() -> PodEntry {
    PodEntry {
        pod_id: 7,
        flags: PodEntry::ACTIVE,
        workers: 2,
        own_v4: address("10.0.0.7"),
        own_v6: address("fd00::7"),
        loopback_v4: [40001, 40002, 0, 0, 0, 0, 0, 0],
        loopback_v6: [40003, 40004, 0, 0, 0, 0, 0, 0],
        device_v4: 40005,
        device_v6: 40006,
        ..PodEntry::default()
    }
}

fn config() -> Config {
    Config { layout: 1, flags: 0, heartbeat_stale_ns: STALE }
}

fn to(destination: &str) -> ConnectFacts {
    ConnectFacts {
        destination: address(destination),
        port: 80,
        device: 0,
        source: Address::UNSPECIFIED,
        worker: 0,
        heartbeat_age_ns: 0,
    }
}

const HIT: DestinationValue = DestinationValue { action: DestinationValue::REDIRECT };

#[test]
fn a_mesh_destination_goes_to_loopback_of_its_family() {
    assert_eq!(gate(&pod(), &to("10.0.0.9")), Gate::LookUp);
    assert_eq!(
        decide(&pod(), &config(), &to("10.0.0.9"), &HIT),
        Verdict::Redirect { address: address("127.0.0.1"), port: 40001 }
    );
    assert_eq!(
        decide(&pod(), &config(), &ConnectFacts { worker: 1, ..to("fd00::9") }, &HIT),
        Verdict::Redirect { address: address("::1"), port: 40004 }
    );
}

#[test]
fn a_socket_bound_to_a_device_goes_to_the_pods_own_address() {
    assert_eq!(
        decide(&pod(), &config(), &ConnectFacts { device: 2, ..to("10.0.0.9") }, &HIT),
        Verdict::Redirect { address: address("10.0.0.7"), port: 40005 }
    );
    let without = PodEntry { own_v6: Address::UNSPECIFIED, ..pod() };
    assert_eq!(
        decide(&without, &config(), &ConnectFacts { device: 2, ..to("fd00::9") }, &HIT),
        Verdict::Refuse(Counter::NoListener)
    );
}

#[test]
fn a_socket_bound_to_a_foreign_address_is_refused() {
    let facts = |source: &str| ConnectFacts { source: address(source), ..to("10.0.0.9") };
    assert_eq!(decide(&pod(), &config(), &facts("10.9.9.9"), &HIT), Verdict::Refuse(Counter::OddSource));
    for fine in ["10.0.0.7", "127.0.0.5", "0.0.0.0"] {
        assert!(matches!(decide(&pod(), &config(), &facts(fine), &HIT), Verdict::Redirect { .. }), "{fine}");
    }
    let host = PodEntry { flags: PodEntry::ACTIVE | PodEntry::HOST_NETWORK, ..pod() };
    assert!(matches!(decide(&host, &config(), &facts("10.9.9.9"), &HIT), Verdict::Redirect { .. }));
}

#[test]
fn a_listener_is_never_dialled_by_an_application() {
    for destination in ["127.0.0.1", "127.9.9.9", "10.0.0.7", "0.0.0.0"] {
        for port in [40001, 40002, 40003, 40005] {
            let facts = ConnectFacts { port, ..to(destination) };
            assert_eq!(gate(&pod(), &facts), Gate::Refuse(Counter::ListenerDialled), "{destination}:{port}");
        }
    }
    let inactive = PodEntry { flags: 0, ..pod() };
    let facts = ConnectFacts { port: 40001, ..to("127.0.0.1") };
    assert_eq!(gate(&inactive, &facts), Gate::Refuse(Counter::ListenerDialled));
}

#[test]
fn an_inactive_pod_and_own_addresses_are_left_alone() {
    assert_eq!(gate(&PodEntry::default(), &to("10.0.0.9")), Gate::Untouched(Counter::PodInactive));
    assert_eq!(gate(&pod(), &to("10.0.0.7")), Gate::Untouched(Counter::OwnAddress));
    assert_eq!(gate(&pod(), &to("fd00::7")), Gate::Untouched(Counter::OwnAddress));
}

#[test]
fn a_dead_agent_means_what_the_setting_says() {
    let facts = ConnectFacts { heartbeat_age_ns: STALE + 1, ..to("10.0.0.9") };
    assert_eq!(decide(&pod(), &config(), &facts, &HIT), Verdict::Untouched(Counter::AgentDownUntouched));
    let refuse = Config { flags: Config::REFUSE_WHEN_DOWN, ..config() };
    assert_eq!(decide(&pod(), &refuse, &facts, &HIT), Verdict::Refuse(Counter::AgentDownRefused));
}

#[test]
fn what_an_agent_before_captured_is_as_if_it_were_dead_until_it_is_captured_anew() {
    let orphan = PodEntry { flags: PodEntry::ORPHANED, ..PodEntry::default() };
    assert_eq!(gate(&orphan, &to("10.0.0.9")), Gate::LookUp);
    let beats = to("10.0.0.9");
    assert_eq!(decide(&orphan, &config(), &beats, &HIT), Verdict::Untouched(Counter::AgentDownUntouched));
    let refuse = Config { flags: Config::REFUSE_WHEN_DOWN, ..config() };
    assert_eq!(decide(&orphan, &refuse, &beats, &HIT), Verdict::Refuse(Counter::AgentDownRefused));
    let strict = PodEntry { flags: PodEntry::ORPHANED | PodEntry::STRICT, ..orphan };
    assert_eq!(decide(&strict, &config(), &beats, &HIT), Verdict::Refuse(Counter::PendingRefused));
}

#[test]
fn a_service_without_ready_endpoint_is_refused_at_once() {
    let found = DestinationValue { action: DestinationValue::REFUSE_NO_ENDPOINT };
    assert_eq!(decide(&pod(), &config(), &to("10.0.0.9"), &found), Verdict::Refuse(Counter::NoReadyEndpoint));
}

prop_compose! {
    fn any_facts()(bits: u128, v4: u32, is_v4: bool, port: u16, device in 0_u32..3, source: u128, worker: u32,
                   age in 0_u64..STALE * 2) -> ConnectFacts {
        let destination = if is_v4 { IpAddr::V4(v4.into()) } else { IpAddr::V6(bits.into()) };
        ConnectFacts { destination: destination.into(), port, device, source: IpAddr::V6(source.into()).into(),
                       worker, heartbeat_age_ns: age }
    }
}

proptest! {
    /// A redirect stays in the pod's namespace, on a listener that exists, of the same family.
    #[test]
    fn a_redirect_goes_only_to_an_own_listener(facts in any_facts(), workers in 0_u32..20, action: u32) {
        let pod = PodEntry { workers, ..pod() };
        if let Verdict::Redirect { address, port } = decide(&pod, &config(), &facts, &DestinationValue { action }) {
            prop_assert!(pod.listens_on(port));
            prop_assert_eq!(address.is_v4(), facts.destination.is_v4());
            prop_assert!(address.is_loopback() != (facts.device != 0));
            prop_assert!(facts.heartbeat_age_ns <= STALE);
            prop_assert_eq!(action, DestinationValue::REDIRECT);
        }
    }

    /// No fact has a pod whose mesh refuses without an agent leave a mesh destination alone.
    #[test]
    fn without_an_agent_refuse_means_refuse(
        facts in any_facts(), stale: bool, kind in 0_usize..4, action: u32, workers in 0_u32..20,
    ) {
        let flags = [
            PodEntry::ORPHANED, PodEntry::STRICT, PodEntry::ORPHANED | PodEntry::STRICT, PodEntry::ACTIVE,
        ][kind];
        let pod = PodEntry { flags, workers, ..pod() };
        let age = if stale { STALE + 1 } else { facts.heartbeat_age_ns.min(STALE) };
        let facts = ConnectFacts { heartbeat_age_ns: age, ..facts };
        let refuse = Config { flags: Config::REFUSE_WHEN_DOWN, ..config() };
        let verdict = decide(&pod, &refuse, &facts, &DestinationValue { action });
        prop_assert!(!matches!(verdict, Verdict::Untouched(_)), "{verdict:?}");
        if stale || flags & PodEntry::ACTIVE == 0 {
            prop_assert!(matches!(verdict, Verdict::Refuse(_)), "{verdict:?}");
        }
    }

    /// No fact makes an inactive pod's connect anything but untouched, or refused at a listener.
    #[test]
    fn an_inactive_pod_is_never_looked_up(facts in any_facts()) {
        let pod = PodEntry { flags: 0, ..pod() };
        prop_assert_ne!(gate(&pod, &facts), Gate::LookUp);
    }
}

#[test]
fn what_a_strict_pod_dials_in_the_mesh_is_never_left_alone() {
    let strict = PodEntry { flags: PodEntry::ACTIVE | PodEntry::STRICT, ..pod() };
    let pending = PodEntry { flags: PodEntry::STRICT, ..pod() };
    let dead = ConnectFacts { heartbeat_age_ns: STALE + 1, ..to("10.0.0.9") };
    assert_eq!(decide(&strict, &config(), &dead, &HIT), Verdict::Refuse(Counter::AgentDownRefused));
    assert_eq!(gate(&pending, &to("10.0.0.9")), Gate::LookUp);
    assert_eq!(decide(&pending, &config(), &to("10.0.0.9"), &HIT), Verdict::Refuse(Counter::PendingRefused));
    assert_eq!(gate(&pending, &to("10.0.0.7")), Gate::Untouched(Counter::OwnAddress));
    for (pod, in_cluster, waited) in
        [(&strict, true, true), (&pending, true, true), (&strict, false, false), (&pod(), true, false)]
    {
        assert_eq!(is_waited_for(pod, in_cluster), waited);
    }
}

use std::path::{Path, PathBuf};

use super::*;
use crate::mode::{Mode, ModeBy};
use crate::policy::{Action, AuthorizationPolicy, Policies, Scope, Selector};
use crate::snapshot::fixture;

fn snapshot() -> Snapshot {
    let (nodes, mut workloads, services) = fixture::mesh();
    for workload in workloads.iter_mut().filter(|w| &*w.name == "web") {
        let ports = [(9090, Mtls::Permissive)].into();
        workload.mode = Mode { mtls: Mtls::Strict, by: ModeBy::Workload, ports };
    }
    let mesh = crate::snapshot::MeshSettings {
        cluster_ranges: vec!["10.0.0.0/8".parse().unwrap()],
        ..fixture::settings()
    };
    Snapshot::build(1, mesh, nodes, workloads, services).unwrap()
}

#[test]
fn whoever_is_refused_is_told_apart() {
    let snapshot = snapshot();
    for (source, to_listener, reason, told) in [
        ("10.0.2.2", false, Reason::PlaintextUncaptured, "shop/db2 is not captured"),
        ("::ffff:10.0.2.1", false, Reason::PlaintextPastHooks, "shop/db is to be captured"),
        ("192.168.0.1", false, Reason::PlaintextHost, "192.168.0.1 is this node's own address (one)"),
        ("192.168.0.2", false, Reason::PlaintextHost, "192.168.0.2 is another node's own address (two)"),
        ("10.0.1.254", false, Reason::PlaintextHost, "10.0.1.254 is an address of this node's host"),
        ("9.9.9.9", false, Reason::PlaintextOutside, "9.9.9.9 is nobody"),
        ("10.0.2.2", true, Reason::ListenerFromOutside, "shop/db2 is not captured"),
    ] {
        let own = "10.0.1.1".parse().unwrap();
        let hosts = ["10.0.1.254".parse().unwrap()];
        let found = refusal(&snapshot, "one", &hosts, source.parse().unwrap(), own, to_listener);
        assert_eq!(found.reason, reason, "{source}");
        assert!(found.detail.starts_with(told), "{}", found.detail);
        assert_eq!(found.destination.unwrap().full_name(), "shop/web");
    }
}

#[test]
fn older_is_what_strict_would_not_have_let_happen() {
    let snapshot = snapshot();
    let pod = snapshot.workload_named("shop", "web").unwrap();
    for (own, peer, accepted, older) in [
        ("10.0.1.1:80", "9.9.9.9:4000", true, true),
        ("10.0.1.1:9090", "9.9.9.9:4000", true, false),
        ("10.0.1.1:80", "10.0.1.1:4000", true, false),
        ("127.0.0.1:80", "127.0.0.1:4000", true, false),
        ("10.0.1.1:80", "127.9.9.9:4000", true, false),
        ("[fd01::1]:80", "[fd02::1]:4000", true, true),
        // What it has dialled itself.
        ("10.0.1.1:4000", "10.0.2.1:80", false, true),
        ("10.0.1.1:4000", "10.0.2.2:80", false, true),
        ("10.0.1.1:4000", "10.9.9.9:80", false, true),
        ("10.0.1.1:4000", "9.9.9.9:80", false, false),
        ("10.0.1.1:4000", "192.168.0.1:80", false, false),
        ("10.0.1.1:4000", "10.96.0.1:80", false, true),
    ] {
        let taken = snapshot.policies().plaintext(pod);
        let found = is_older(&snapshot, pod, &taken, own.parse().unwrap(), peer.parse().unwrap(), accepted);
        assert_eq!(found, older, "{own} {peer} {accepted}");
    }
}

#[test]
fn what_policy_has_closed_is_older_unless_the_mesh_keeps_what_is_open() {
    let closed = AuthorizationPolicy {
        namespace: "shop".into(),
        name: "nobody".into(),
        scope: Scope::Namespace,
        selector: Selector::default(),
        action: Action::Allow,
        dry_run: false,
        rules: Vec::new(),
    };
    let policies = Policies { authorization: vec![closed], ..Policies::default() };
    let mut snapshot = snapshot().with_policies(policies);
    for (change, older) in [(PolicyChange::End, true), (PolicyChange::Keep, false)] {
        snapshot.mesh.policy_change = change;
        let db = snapshot.workload_named("shop", "db").unwrap();
        let taken = snapshot.policies().plaintext(db);
        let (own, peer) = ("10.0.2.1:80".parse().unwrap(), "9.9.9.9:4000".parse().unwrap());
        assert_eq!(is_older(&snapshot, db, &taken, own, peer, true), older);
        // What it dials is not policy's to close.
        assert!(!is_older(&snapshot, db, &taken, own, "10.9.9.9:80".parse().unwrap(), false));
    }
}

#[test]
fn a_kubelets_cgroup_that_holds_pods_vouches_for_nobody() {
    let mount = Path::new("/sys/fs/cgroup");
    let pods = |path: &str| std::iter::once(("shop/web".to_owned(), PathBuf::from(path)));
    let kubelet = mount.join("system.slice/kubelet.service");
    assert_eq!(probes_of(&kubelet, mount, pods("/sys/fs/cgroup/kubepods.slice/web")), Ok(()));
    assert!(probes_of(mount, mount, pods("/sys/fs/cgroup/x")).unwrap_err().contains("root of all cgroups"));
    let error =
        probes_of(&kubelet, mount, pods("/sys/fs/cgroup/system.slice/kubelet.service/web")).unwrap_err();
    assert!(error.contains("pod shop/web runs below"), "{error}");
}

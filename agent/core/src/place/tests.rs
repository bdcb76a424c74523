use proptest::prelude::*;

use super::*;

const UID: &str = "0c2f9a9e-52cf-4ad0-9d0b-0d2d4e2c7a11";
const SLICE_UID: &str = "0c2f9a9e_52cf_4ad0_9d0b_0d2d4e2c7a11";

#[test]
fn pods_are_found_by_both_drivers_names_in_every_class() {
    let pod = |class| Some(Directory::Pod { uid: UID.to_owned(), class });
    let pods = Some(Directory::Pods);
    let id = "8f3c5b0e".repeat(8);
    let cases = [
        ("/kubepods".to_owned(), pods.clone()),
        ("kubepods/burstable".to_owned(), pods.clone()),
        ("/kubelet/kubepods/besteffort".to_owned(), pods.clone()),
        (format!("/kubepods/pod{UID}"), pod(Class::Guaranteed)),
        (format!("/kubepods/burstable/pod{UID}"), pod(Class::Burstable)),
        (format!("/kubelet/kubepods/besteffort/pod{UID}"), pod(Class::BestEffort)),
        ("/kubepods.slice".to_owned(), pods.clone()),
        ("/kubepods.slice/kubepods-burstable.slice".to_owned(), pods.clone()),
        ("/kubelet.slice/kubelet-kubepods.slice".to_owned(), pods),
        (format!("/kubepods.slice/kubepods-pod{SLICE_UID}.slice"), pod(Class::Guaranteed)),
        (
            format!("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SLICE_UID}.slice"),
            pod(Class::BestEffort),
        ),
        (
            format!(
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{SLICE_UID}.slice"
            ),
            pod(Class::Burstable),
        ),
        // Containers of both runtimes, and what is no pod's.
        (format!("/kubepods/burstable/pod{UID}/{id}"), None),
        (format!("/kubepods.slice/kubepods-pod{SLICE_UID}.slice/cri-containerd-{id}.scope"), None),
        (format!("/kubepods.slice/kubepods-pod{SLICE_UID}.slice/crio-{id}.scope"), None),
        ("/system.slice/nginx.service".to_owned(), None),
        ("/system.slice".to_owned(), None),
        ("/".to_owned(), None),
        (format!("/user/burstable/pod{}", "x".repeat(36)), None),
        (format!("/elsewhere/pod{UID}"), None),
        (format!("/kubepods.slice/kubepods-pod{UID}x.slice"), None),
    ];
    for (path, expected) in cases {
        assert_eq!(directory(&path), expected, "{path}");
    }
    let mirror = "6a1b".repeat(8);
    let expected = Some(Directory::Pod { uid: mirror.clone(), class: Class::Burstable });
    assert_eq!(directory(&format!("/kubepods/burstable/pod{mirror}")), expected);
    assert!(is_runtimes_own("crio-conmon-abc.scope") && !is_runtimes_own("crio-abc.scope"));
}

#[test]
fn the_namespace_is_the_one_that_has_the_pods_addresses() {
    let at = |inode, addresses: &[&str]| Candidate {
        inode,
        addresses: Some(addresses.iter().map(|a| a.parse().unwrap()).collect()),
    };
    let host = at(1, &["192.168.0.1", "10.0.0.1"]);
    let pod = at(2, &["127.0.0.1", "10.0.1.1", "fd01::1"]);
    let inner = at(3, &["172.17.0.1"]);
    let all = [host.clone(), inner.clone(), pod];
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    assert_eq!(namespace(&all, 1, false, &[ip("10.0.1.1"), ip("fd01::1")]), Ok(2));
    assert_eq!(namespace(&all, 1, true, &[ip("192.168.0.1")]), Ok(1));
    assert_eq!(namespace(std::slice::from_ref(&inner), 1, true, &[]), Err(NamespaceError::NotOnHost));
    // The node's own namespace is no other pod's, whatever its addresses.
    let foreign = NamespaceError::Foreign { count: 2, address: ip("10.0.0.1") };
    assert_eq!(namespace(&[host, inner], 1, false, &[ip("10.0.0.1")]), Err(foreign));
    assert_eq!(namespace(&all, 1, false, &[]), Err(NamespaceError::NoAddress));
    // While its sandbox is made, the pod's only process is still on the node's network.
    let early = namespace(&all[..1], 1, false, &[ip("10.0.1.1")]);
    assert_eq!(early, Err(NamespaceError::NotInSandbox));
    // A process of the pod has made one with the pod's address: first or last, it is not taken.
    let decoy = at(4, &["10.0.1.1", "fd01::1"]);
    let [host, inner, pod] = all;
    for all in [[decoy.clone(), inner, pod.clone()], [pod.clone(), host, decoy]] {
        let ambiguous = NamespaceError::Ambiguous { count: 2, address: ip("10.0.1.1") };
        assert_eq!(namespace(&all, 1, false, &[ip("10.0.1.1"), ip("fd01::1")]), Err(ambiguous));
    }
    // With a part of the addresses it is none.
    let part = at(4, &["10.0.1.1"]);
    assert_eq!(namespace(&[part, pod.clone()], 1, false, &[ip("10.0.1.1"), ip("fd01::1")]), Ok(2));
    // One that cannot be read may be the pod's, unless it is the node's.
    let unread = |inode| Candidate { inode, addresses: None };
    let addresses = [ip("10.0.1.1")];
    assert_eq!(namespace(&[unread(1), pod.clone()], 1, false, &addresses), Ok(2));
    let error = NamespaceError::Unread { count: 1 };
    assert_eq!(namespace(&[unread(5), pod], 1, false, &addresses), Err(error));
    assert_eq!(namespace(&[], 1, false, &[ip("10.0.1.1")]), Err(NamespaceError::NoProcess));
}

proptest! {
    #[test]
    fn any_path_is_read(path in "[/a-z0-9._-]{0,80}") {
        if let Some(Directory::Pod { uid, .. }) = directory(&path) {
            prop_assert!(path.replace('_', "-").contains(&uid));
        }
    }
}

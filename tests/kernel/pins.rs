//! What stays when an agent goes, and what a new one takes over.

use std::net::TcpStream;
use std::os::fd::AsFd;

use lark_abi::Counter;
use lark_bpf::Kernel;

use crate::room::{FAR, Room, address, config};

#[test]
fn a_new_agent_takes_over_the_links_of_the_old_one() {
    let mut room = Room::new();
    room.mesh(&[(FAR, 80)]);
    let listeners = room.capture();
    let before = room.kernel.pinned();
    assert_eq!(before.len(), 1);
    assert!(before[0].is_attached_to(room.pod.id()), "{before:?}");

    let mut second = Kernel::open(&config(&room.pins)).unwrap();
    second.capture("pod.one", room.pod.as_fd(), room.pod.id(), listeners.entry()).unwrap();
    let after = second.pinned();
    let links = |pods: &[lark_bpf::PinnedPod]| pods[0].links.iter().map(|l| l.link_id).collect::<Vec<_>>();
    let programs =
        |pods: &[lark_bpf::PinnedPod]| pods[0].links.iter().map(|l| l.program_id).collect::<Vec<_>>();
    assert_eq!(links(&before), links(&after), "links were made anew instead of updated");
    assert_ne!(programs(&before), programs(&after), "the links still run the old programs");

    let _client = room.as_pod(|| TcpStream::connect(address(FAR, 80)).unwrap());
    let (server, _) = listeners.v4.accept().unwrap();
    assert!(second.accepted().unwrap().flow(&server).unwrap().is_some());
}

#[test]
fn a_released_pod_is_left_alone_and_leaves_no_pins() {
    let mut room = Room::new();
    room.mesh(&[(FAR, 80)]);
    let _listeners = room.capture();
    room.kernel.release("pod.one").unwrap();
    assert_eq!(room.kernel.pinned(), vec![]);
    let redirected = room.counter(Counter::Redirected);
    let outside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = room.as_pod(|| TcpStream::connect(outside.local_addr().unwrap()).unwrap());
    assert_eq!(room.counter(Counter::Redirected), redirected);
    assert_eq!(room.counter(Counter::NotMesh), 0);
}

#[test]
fn a_pod_whose_cgroup_is_gone_is_severed() {
    let mut room = Room::new();
    let _listeners = room.capture();
    std::fs::remove_dir(room.pod.path()).unwrap();
    // The kernel lets go of a dying cgroup's links in the background.
    let severed = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        room.kernel.pinned()[0].is_severed()
    });
    assert!(severed, "{:?}", room.kernel.pinned());
    std::fs::create_dir(room.pod.path()).unwrap();
    let again = lark_sys::cgroup::Cgroup::open(room.pod.path()).unwrap();
    let entry = lark_abi::PodEntry::default();
    room.kernel.capture("pod.one", again.as_fd(), again.id(), entry).unwrap();
    assert!(room.kernel.pinned()[0].is_attached_to(again.id()));
}

#[test]
fn a_failed_capture_leaves_nothing_attached() {
    let mut room = Room::new();
    let not_a_cgroup = std::fs::File::open("/proc/self").unwrap();
    let error =
        room.kernel.capture("bad", not_a_cgroup.as_fd(), 1, lark_abi::PodEntry::default()).unwrap_err();
    assert!(error.to_string().contains("lark_pod_sock_ops"), "{error}");
    assert_eq!(room.kernel.pinned(), vec![]);
}

#[test]
fn what_another_layout_has_pinned_is_refused_by_name() {
    let mut record = lark_testbed::Record::of("pins of another map layout").unwrap();
    let mut room = Room::new();
    let own = room.pins.clone();
    room.kernel.set_config(lark_abi::Config { layout: 99, flags: 0, heartbeat_stale_ns: 0 }).unwrap();
    let error = Kernel::open(&config(&own)).map(drop).unwrap_err().to_string();
    assert!(
        error.contains("map layout 99, this one has 1") && error.contains(own.to_str().unwrap()),
        "{error}"
    );
    room.kernel.set_config(lark_abi::Config { layout: 1, flags: 0, heartbeat_stale_ns: 0 }).unwrap();
    Kernel::open(&config(&own)).map(drop).unwrap();
    // Beside it, as the next layout's own directory would be.
    let other = own.with_file_name("v2");
    let error = Kernel::open(&config(&other)).map(drop).unwrap_err().to_string();
    assert!(error.contains("v1 was made by a version of Lark with map layout 1"), "{error}");
    assert!(error.contains("stop that agent and remove"), "{error}");
    record.injected(2);
    record.write("2 of 2 refused by a sentence that names the pins, both layouts and what to do").unwrap();
}

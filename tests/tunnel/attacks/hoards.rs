//! Whoever takes as much as he can gets his share and no more.

use std::time::Duration;

use lark_core::constants::HELD_MAX;
use lark_testbed::Record;
use lark_testbed::hostile::kind::{DATA, HEADERS, RST_STREAM, WINDOW_UPDATE};
use lark_testbed::hostile::{self, END_HEADERS, Hostile, connect_to, frame, setting};
use lark_tunnel::{Holding, TunnelSettings};

use super::{FLOOD, NEVER, SOMEBODY, Stage, mib};
use crate::ends::{id, on_worker, quick};

#[test]
fn bytes_that_wait_for_applications_are_bounded() {
    on_worker(async {
        let mut stage =
            Stage::new(TunnelSettings { held: Holding::new(16 << 20, 0, 16 << 20), ..quick() }).await;
        let mut hostile = stage.tunnel(&[]).await;
        // A quarter is a node's: sixteen windows of 256 KiB that nobody empties.
        for n in 0..40 {
            let stream = 2 * n + 1;
            hostile.send(&frame(HEADERS, END_HEADERS, stream, &connect_to(NEVER, SOMEBODY))).await.unwrap();
            for _ in 0..16 {
                hostile.send(&frame(DATA, 0, stream, &[7; 16_384])).await.unwrap();
            }
        }
        for n in 16..40 {
            let reset = hostile.next_of(RST_STREAM).await.unwrap();
            // ENHANCE_YOUR_CALM
            assert_eq!((reset.stream, reset.payload), (2 * n + 1, vec![0, 0, 0, 11]));
        }
        stage.others_are_unharmed().await;
        // What goes makes room.
        hostile.send(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])).await.unwrap();
        hostile.send(&frame(HEADERS, END_HEADERS, 101, &connect_to(NEVER, SOMEBODY))).await.unwrap();
        for _ in 0..17 {
            hostile.send(&frame(DATA, 0, 101, &[7; 16_384])).await.unwrap();
        }
        // More than its window, which is what ends it this time.
        stage.until("the window", |stage| stage.lost("window_exceeded"), 1).await;
        stage.others_are_unharmed().await;
        assert!(stage.grown() < 32 << 20, "{} bytes", stage.grown());
        let seen = format!("24 of 40 reset, others unharmed; {}", mib(stage.grown()));
        Record::told("bytes for applications that do not read", 40, seen).unwrap();
    });
}

#[test]
fn deliveries_and_tunnels_of_one_node_leave_room_for_others() {
    on_worker(async {
        let settings = TunnelSettings { deliveries_max: 40, tunnels_max: 40, ..quick() };
        let mut stage = Stage::new(settings).await;
        let mut hostile = stage.tunnel(&[]).await;
        for n in 0..30 {
            let request = connect_to(NEVER, SOMEBODY);
            hostile.send(&frame(HEADERS, END_HEADERS, 2 * n + 1, &request)).await.unwrap();
        }
        // A quarter of the deliveries is a node's.
        stage.until("refused", |stage| stage.refused("limit_reached"), 20).await;
        assert_eq!(stage.refused("limit_reached"), 20);
        stage.others_are_unharmed().await;
        let mut tunnels = Vec::new();
        for _ in 0..9 {
            tunnels.push(stage.tunnel(&[]).await);
        }
        let before = stage.handshakes("too_many");
        let socket = hostile::from(super::TAKEN, stage.node.address).await.unwrap();
        let name = lark_tunnel::name::server_name(&id("db"));
        let eleventh = Hostile::new(socket, stage.config(), Some(&name)).await;
        assert!(eleventh.is_err(), "the eleventh tunnel of a node was taken");
        assert_eq!(stage.handshakes("too_many"), before + 1);
        stage.others_are_unharmed().await;
        let fault = "more deliveries and tunnels than a node's share";
        let seen = "20 of 30 deliveries and the eleventh tunnel refused and counted; others unharmed";
        Record::told(fault, 31, seen).unwrap();
    });
}

/// That many tunnels in hostile hands, in each of which an application sends without end to who reads nothing.
async fn unread(stage: &Stage, count: usize) -> Vec<Hostile> {
    let mut tunnels = Vec::new();
    for _ in 0..count {
        // INITIAL_WINDOW_SIZE: the most that there is.
        let mut hostile = stage.tunnel(&setting(4, 0x7fff_ffff)).await;
        let flood = frame(HEADERS, END_HEADERS, 1, &connect_to(FLOOD, SOMEBODY));
        let window = frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes());
        hostile.send(&[flood, window].concat()).await.unwrap();
        tunnels.push(hostile);
    }
    tunnels
}

#[test]
fn bytes_that_wait_for_a_peer_are_bounded() {
    on_worker(async {
        const SHARE: usize = 4 << 20;
        let held = Holding::new(HELD_MAX, 0, 4 * SHARE);
        let mut stage = Stage::new(TunnelSettings { held: held.clone(), ..quick() }).await;
        let tunnels = unread(&stage, 60).await;
        let begun = || stage.deliver.begun.get();
        while begun() < 60 || held.total() < SHARE - (1 << 20) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stage.others_are_unharmed().await;
        // A few have as much as they may, until the node has its share; and then each has a record.
        let most = SHARE + (1 << 20) + 60 * (16 << 10);
        assert!(held.total() <= most, "{} bytes", held.total());
        assert_eq!(stage.lost("peer_stalled"), 0);
        assert!(stage.grown() < 16 << 20, "{} bytes", stage.grown());
        drop(tunnels);
        while held.total() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let seen = format!("a node's share waits, none is ended, others unharmed; {}", mib(stage.grown()));
        Record::told("tunnels whose peer reads nothing", 60, seen).unwrap();
    });
}

#[test]
fn a_node_that_has_twice_its_share_waiting_loses_tunnels() {
    on_worker(async {
        const SHARE: usize = 256 << 10;
        let held = Holding::new(HELD_MAX, 0, 4 * SHARE);
        let mut stage = Stage::new(TunnelSettings { held: held.clone(), ..quick() }).await;
        let tunnels = unread(&stage, 60).await;
        stage.until("a tunnel too many", |stage| stage.lost("peer_stalled"), 60 - 2 * 16).await;
        stage.others_are_unharmed().await;
        assert!(held.total() <= 2 * SHARE, "{} bytes", held.total());
        let left = 60 - stage.lost("peer_stalled");
        assert!(left >= 16, "{left} are left");
        drop(tunnels);
        let seen = format!("{left} are left, others unharmed; {}", mib(stage.grown()));
        Record::told("tunnels whose peer reads nothing, beyond twice its share", 60, seen).unwrap();
    });
}

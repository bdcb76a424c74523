//! Whoever takes as much as he can gets his share and no more.

use lark_testbed::Record;
use lark_testbed::hostile::kind::{DATA, HEADERS, RST_STREAM};
use lark_testbed::hostile::{self, END_HEADERS, Hostile, connect_to, frame};
use lark_tunnel::{Holding, TunnelSettings};

use super::{NEVER, SOMEBODY, Stage, mib};
use crate::ends::{id, on_worker, quick};

#[test]
fn bytes_that_wait_for_applications_are_bounded() {
    on_worker(async {
        let mut stage = Stage::new(TunnelSettings { held: Holding::new(16 << 20, 0), ..quick() }).await;
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

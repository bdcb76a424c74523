//! What tunnels tell, for the agent's observer.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use lark_core::explain::Cause;
use lark_core::identity::SpiffeId;
use lark_core::reason::Reason;
use lark_tunnel::Side;

use crate::observe::{Direction, Observer};

/// Tells the agent's observer what tunnels tell.
#[derive(Debug, Clone)]
pub struct Tunnels(pub Observer);

impl lark_tunnel::Observer for Tunnels {
    fn handshake(&self, side: Side, result: Result<(), Cause>, took: Duration) {
        self.0.handshake(side.label(), result, took);
    }

    fn opened(&self, side: Side) {
        self.0.tunnel_opened(side.label());
    }

    fn closed(&self, side: Side, cause: Option<Cause>) {
        self.0.tunnel_closed(side.label(), cause);
    }

    fn stream_refused(&self, peer: SocketAddr, client: &SpiffeId, reason: Reason, detail: &dyn Display) {
        self.0.refused_early(Direction::Inbound, reason);
        if let Some(left_out) = self.0.line() {
            tracing::warn!(%peer, %client, %reason, %detail, left_out, "a stream is refused");
        }
    }
}

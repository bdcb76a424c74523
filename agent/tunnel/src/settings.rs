//! How tunnels behave, and who watches them.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use lark_core::constants::{
    AHEAD_MAX, DISCOVERY_WAIT, HANDSHAKE_TIMEOUT, HELD_MAX, KEEPALIVE_TIMEOUT, TUNNEL_IDLE, TUNNEL_MAX_AGE,
    TUNNEL_WINDOW,
};
use lark_core::explain::Cause;
use lark_core::framing;
use lark_core::identity::SpiffeId;
use lark_core::reason::Reason;
use lark_sys::ktls::Offer;

use crate::cipher::{Cipher, by_speed};
use crate::held::Holding;

/// How tunnels behave. Limits are per worker unless they say otherwise; of what the accepting end takes, each node and all addresses
/// that are no node's have a share only ([`lark_core::quota`]).
#[derive(Debug, Clone)]
pub struct TunnelSettings {
    /// A tunnel takes no new stream at this age: the other end is told by GOAWAY.
    pub max_age: Duration,
    /// A tunnel without streams is closed after this; one that is lost before is opened again.
    pub idle: Duration,
    /// Most keys for which tunnels are opened ahead of need.
    pub ahead: usize,
    /// Most handshakes that the dialling end has under way; others wait.
    pub dials_max: usize,
    /// A peer that says nothing for this long although it was asked is gone. It is asked after a third. One
    /// that speaks, but takes nothing of what waits for it for this long, is gone too.
    pub keepalive: Duration,
    /// Bytes of a tunnel that may lie in the kernel of the end that is to read them; 0 leaves it to the kernel.
    pub window: u32,
    /// How long TCP connect and TLS handshake may take together.
    pub handshake_timeout: Duration,
    /// How long an accepted handshake waits for the identity it names.
    pub identity_wait: Duration,
    /// Congestion control of the node leg; `None` leaves the system's.
    pub congestion: Option<String>,
    /// The ciphers that are taken; of those that both ends take it is the dialling end's first.
    pub ciphers: Vec<Cipher>,
    /// What the kernel offers to carry of tunnels' records; `None` carries all of them here.
    pub ktls: Option<Offer>,
    /// Most tunnels for one pair of identities and one node; each takes as many streams as its peer
    /// allows.
    pub tunnels_a_key: usize,
    /// Most accepted tunnels. More are closed, before their handshake if its worker has that many.
    pub tunnels_max: usize,
    /// Most handshakes under way at the accepting end. More are closed at once.
    pub handshakes_max: usize,
    /// Most deliveries being decided or dialled. More are refused as `limit_reached`.
    pub deliveries_max: usize,
    /// Bytes that wait for applications which do not read, of all workers that have a clone of it. A stream
    /// that brings more than there is room for is reset.
    pub held: Holding,
    /// HTTP/2 limits and windows.
    pub framing: framing::Settings,
}

impl Default for TunnelSettings {
    fn default() -> Self {
        Self {
            max_age: TUNNEL_MAX_AGE,
            idle: TUNNEL_IDLE,
            ahead: AHEAD_MAX,
            dials_max: 64,
            keepalive: KEEPALIVE_TIMEOUT,
            window: TUNNEL_WINDOW,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            identity_wait: DISCOVERY_WAIT,
            congestion: None,
            ciphers: by_speed(),
            ktls: None,
            tunnels_a_key: 8,
            tunnels_max: 16_384,
            handshakes_max: 2_048,
            deliveries_max: 4_096,
            held: Holding::of_all(HELD_MAX),
            framing: framing::Settings::default(),
        }
    }
}

/// Which end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The one that dials.
    Client,
    /// The one that accepts.
    Server,
}

impl Side {
    /// The label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// Is told what happens to tunnels. Calls are rare and must be cheap.
pub trait Observer {
    /// A handshake ended.
    fn handshake(&self, side: Side, result: Result<(), Cause>, took: Duration);
    /// A tunnel opened.
    fn opened(&self, side: Side);
    /// A tunnel that had opened closed; if not in order, why.
    fn closed(&self, side: Side, cause: Option<Cause>);
    /// The accepting end refused a stream of `client`'s before [`crate::Deliver`] was asked.
    fn stream_refused(&self, peer: SocketAddr, client: &SpiffeId, reason: Reason, detail: &dyn Display);
}

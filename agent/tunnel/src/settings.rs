//! How tunnels behave, and who watches them.

use std::time::Duration;

use lark_core::constants::{HANDSHAKE_TIMEOUT, KEEPALIVE_TIMEOUT, TUNNEL_IDLE, TUNNEL_MAX_AGE};
use lark_core::framing;
use lark_core::reason::Reason;

/// How tunnels behave.
#[derive(Debug, Clone)]
pub struct TunnelSettings {
    /// A tunnel takes no new stream after this age.
    pub max_age: Duration,
    /// A tunnel without streams is closed after this.
    pub idle: Duration,
    /// A peer that says nothing for this long, asked or not, is gone.
    pub keepalive: Duration,
    /// How long TCP connect and TLS handshake may take together.
    pub handshake_timeout: Duration,
    /// How long an accepted handshake waits for the identity it names.
    pub identity_wait: Duration,
    /// Congestion control of the node leg; `None` leaves the system's.
    pub congestion: Option<String>,
    /// HTTP/2 limits and windows.
    pub framing: framing::Settings,
}

impl Default for TunnelSettings {
    fn default() -> Self {
        Self {
            max_age: TUNNEL_MAX_AGE,
            idle: TUNNEL_IDLE,
            keepalive: KEEPALIVE_TIMEOUT,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            identity_wait: lark_core::constants::DISCOVERY_WAIT,
            congestion: None,
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
    fn handshake(&self, side: Side, result: Result<(), Reason>, took: Duration);
    /// A tunnel opened or closed.
    fn tunnel(&self, side: Side, opened: bool);
}

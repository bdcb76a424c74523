//! What the hooks tell of connections that no agent carries.

use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use lark_abi::{Address, FollowedEvent};
use tokio::io::unix::AsyncFd;

use crate::load::{self, Gather, MapError};

/// How long after the last one plaintext is not listened for, so that a pod that makes one connection after another
/// does not have the agent woken beside each. The kernel's buffer holds 2,700.
const GATHER: Duration = Duration::from_millis(50);
/// So many meanwhile are half of that.
const MANY: u32 = 1_350;

/// What becomes of one kind of them, as it happens.
pub struct FollowedEvents {
    ring: AsyncFd<RingBuf<MapData>>,
    gather: Gather,
}

impl std::fmt::Debug for FollowedEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FollowedEvents")
    }
}

impl FollowedEvents {
    /// Those that a verdict left to two pods.
    pub(crate) fn direct(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self { ring: load::ring(ebpf, "DIRECT_EVENTS")?, gather: Gather::default() })
    }

    /// Those in plaintext, up to a twentieth of a second late.
    pub(crate) fn plain(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self { ring: load::ring(ebpf, "PLAIN_EVENTS")?, gather: Gather::new(GATHER, MANY) })
    }

    /// The next one. Cancel safe: nothing is taken before it is returned.
    ///
    /// # Errors
    /// When the ring buffer cannot be waited for.
    pub async fn next(&mut self) -> std::io::Result<FollowedEvent> {
        load::next(&mut self.ring, &mut self.gather, parse).await
    }
}

fn parse(bytes: &[u8]) -> Option<FollowedEvent> {
    let long = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let address =
        |at: usize| Some(Address { words_be: [word(at)?, word(at + 4)?, word(at + 8)?, word(at + 12)?] });
    Some(FollowedEvent {
        cookie: long(0)?,
        sent: long(8)?,
        received: long(16)?,
        source: address(24)?,
        destination: address(40)?,
        source_port: half(56)?,
        port: half(58)?,
        kind: word(60)?,
        pod: word(64)?,
        namespace: word(68)?,
        seen: word(72)?,
        rtt_us: word(76)?,
        retransmits: word(80)?,
        padding: 0,
    })
}

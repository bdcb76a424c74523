//! What each end tells the other about its limits (RFC 9113, section 6.5).

use crate::explain::Violation;

use super::error::ConnectionError;
use super::frame;

/// Our own limits and sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Largest DATA frame that we take, in bytes (16 KiB to 16 MiB - 1).
    pub max_frame: u32,
    /// A stream's first receive window, in bytes.
    pub window: u32,
    /// How far a stream's receive window grows while its reader drains it, in bytes.
    pub window_max: u32,
    /// Most streams that the peer may have open at once.
    pub max_streams: u32,
}

impl Default for Settings {
    /// 1 MiB frames, windows from 256 KiB to 4 MiB, 1000 streams.
    fn default() -> Self {
        Self { max_frame: 1024 * 1024, window: 256 * 1024, window_max: 4 * 1024 * 1024, max_streams: 1000 }
    }
}

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;

pub(super) const DEFAULT_WINDOW: u32 = 65_535;
pub(super) const DEFAULT_MAX_FRAME: u32 = 16_384;
pub(super) const MAX_WINDOW: i64 = 0x7fff_ffff;

impl Settings {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut payload = Vec::with_capacity(36);
        for (name, value) in [
            // The peer's encoder must not use a dynamic table: decoding then needs no memory.
            (HEADER_TABLE_SIZE, 0),
            (ENABLE_PUSH, 0),
            (MAX_CONCURRENT_STREAMS, self.max_streams),
            (INITIAL_WINDOW_SIZE, self.window),
            (MAX_FRAME_SIZE, self.max_frame),
            (MAX_HEADER_LIST_SIZE, 16 * 1024),
        ] {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        frame::push(out, frame::SETTINGS, 0, 0, &payload);
    }
}

/// What the peer told us.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) max_frame: u32,
    pub(super) window: u32,
    pub(super) max_streams: u32,
}

impl Default for Peer {
    fn default() -> Self {
        Self { max_frame: DEFAULT_MAX_FRAME, window: DEFAULT_WINDOW, max_streams: 100 }
    }
}

impl Peer {
    /// Takes a SETTINGS payload over. Unknown settings are ignored, as the RFC wants.
    pub(super) fn apply(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        if !payload.len().is_multiple_of(6) {
            return Err(ConnectionError::size("SETTINGS of a length that is no multiple of six"));
        }
        for entry in payload.chunks_exact(6) {
            let [n0, n1, v0, v1, v2, v3] = *entry else { continue };
            let value = u32::from_be_bytes([v0, v1, v2, v3]);
            match u16::from_be_bytes([n0, n1]) {
                ENABLE_PUSH if value > 1 => {
                    return Err(ConnectionError::protocol(
                        Violation::SettingsInvalid,
                        "ENABLE_PUSH above one",
                    ));
                }
                MAX_CONCURRENT_STREAMS => self.max_streams = value,
                INITIAL_WINDOW_SIZE if i64::from(value) > MAX_WINDOW => {
                    return Err(ConnectionError::flow(
                        Violation::WindowOverflow,
                        "INITIAL_WINDOW_SIZE above 2^31-1",
                    ));
                }
                INITIAL_WINDOW_SIZE => self.window = value,
                MAX_FRAME_SIZE if !(DEFAULT_MAX_FRAME..=0x00ff_ffff).contains(&value) => {
                    return Err(ConnectionError::protocol(
                        Violation::SettingsInvalid,
                        "MAX_FRAME_SIZE outside its range",
                    ));
                }
                MAX_FRAME_SIZE => self.max_frame = value,
                _ => {}
            }
        }
        Ok(())
    }
}

//! HTTP/2: the two directions put together (RFC 9113).

use crate::framing::frame::PREFACE;

use super::Sink;
use super::event::{Cut, Event, Opaque, Protocol};
use super::frames::{Frames, Signal};
use super::streams::Streams;

/// Both directions of a connection.
#[derive(Debug)]
pub(super) struct Http2 {
    client: Frames,
    server: Frames,
    streams: Streams,
    /// Whether the server began, as it may with its SETTINGS.
    server_first: bool,
    /// Bytes of the client's preface that are there.
    preface: u8,
    /// The highest stream that the client has opened.
    newest: u32,
}

impl Http2 {
    pub(super) fn new(server_first: bool) -> Self {
        let (client, server) = (Frames::new(), Frames::new());
        Self { client, server, streams: Streams::new(), server_first, preface: 0, newest: 0 }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.client.heap_bytes() + self.server.heap_bytes() + self.streams.heap_bytes()
    }

    pub(super) fn client(&mut self, bytes: &[u8], now: u64, sink: Sink<'_>) -> Result<(), Opaque> {
        let mut bytes = self.take_preface(bytes, sink)?;
        while !bytes.is_empty() {
            let (taken, signal) = self.client.take(bytes, now)?;
            bytes = bytes.get(taken..).unwrap_or_default();
            match signal {
                Some(Signal::Block(block)) if block.promised || block.stream % 2 == 0 => {
                    return Err(Opaque::Broken);
                }
                // Otherwise trailers, whose fields say nothing here.
                Some(Signal::Block(block)) if block.stream > self.newest => {
                    self.newest = block.stream;
                    self.streams.request(&block, now, sink);
                }
                Some(Signal::Reset(stream, _)) => self.streams.reset(stream, Cut::ClientReset, now, sink),
                Some(Signal::Block(_) | Signal::End(_) | Signal::GoAway(_)) | None => {}
            }
        }
        Ok(())
    }

    fn take_preface<'a>(&mut self, bytes: &'a [u8], sink: Sink<'_>) -> Result<&'a [u8], Opaque> {
        let to_come = PREFACE.get(usize::from(self.preface)..).unwrap_or_default();
        let (now, rest) = bytes.split_at(to_come.len().min(bytes.len()));
        if !to_come.starts_with(now) {
            return Err(self.not_http2());
        }
        for _ in now {
            self.preface += 1;
            if usize::from(self.preface) == PREFACE.len() {
                sink(Event::Known(Protocol::Http2));
            }
        }
        Ok(rest)
    }

    /// Before the preface is whole, either side can show that it was something else.
    fn not_http2(&self) -> Opaque {
        if self.server_first { Opaque::ServerFirst } else { Opaque::Unknown }
    }

    pub(super) fn server(&mut self, mut bytes: &[u8], now: u64, sink: Sink<'_>) -> Result<(), Opaque> {
        while !bytes.is_empty() {
            let (taken, signal) = match self.server.take(bytes, now) {
                Err(_) if usize::from(self.preface) < PREFACE.len() => return Err(self.not_http2()),
                other => other?,
            };
            bytes = bytes.get(taken..).unwrap_or_default();
            match signal {
                // What the server pushes was not asked for.
                Some(Signal::Block(block)) if block.promised || block.stream % 2 == 0 => {}
                Some(Signal::Block(block)) => self.streams.response(&block, now, sink)?,
                Some(Signal::End(stream)) => self.streams.end(stream, now, sink)?,
                Some(Signal::Reset(stream, code)) => self.streams.reset_by_server(stream, code, now, sink),
                Some(Signal::GoAway(last)) => self.streams.going_away(last, now, sink),
                None => {}
            }
        }
        Ok(())
    }

    /// The connection is over.
    pub(super) fn finish(&mut self, cut: Cut, now: u64, sink: Sink<'_>) {
        self.streams.finish(cut, now, sink);
    }
}

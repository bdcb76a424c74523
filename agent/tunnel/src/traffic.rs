//! What passes on one connection: counted, and shown to its recogniser before it is passed on.

use std::sync::Arc;

use lark_core::observe::{ByteCounters, Stage, Stages};
use lark_core::recognise::{Ending, Event, Recogniser};
use tokio::time::Instant;

use crate::ended::End;

/// Where a connection's bytes are counted, and what is told of them. It sees every byte once and in order, and
/// can neither change nor hold one.
#[derive(Default)]
pub struct Traffic {
    counters: Arc<ByteCounters>,
    /// Where the first byte of each direction is noted, and since when time counts.
    stages: Option<(Arc<Stages>, std::time::Instant)>,
    /// Told once when the other end has answered that the stream is open.
    opens: Option<Box<dyn FnOnce()>>,
    /// Nothing once there is nothing more to tell.
    recognised: Option<Box<Recognised>>,
}

struct Recognised {
    recogniser: Recogniser,
    sink: Box<dyn FnMut(Event)>,
    /// The moment that the recogniser's times count from.
    began: Instant,
}

impl From<Arc<ByteCounters>> for Traffic {
    /// Counted, and not looked at.
    fn from(counters: Arc<ByteCounters>) -> Self {
        Self { counters, stages: None, opens: None, recognised: None }
    }
}

impl Traffic {
    /// Counted, and its protocol followed: `sink` is told, on this thread and while bytes wait, so it must be
    /// quick.
    pub fn recognised(counters: Arc<ByteCounters>, sink: impl FnMut(Event) + 'static) -> Self {
        let recognised =
            Recognised { recogniser: Recogniser::new(), sink: Box::new(sink), began: Instant::now() };
        Self { counters, stages: None, opens: None, recognised: Some(Box::new(recognised)) }
    }

    /// The same, with the first byte of each direction noted there, counted from `began`.
    #[must_use]
    pub fn timed(self, stages: Arc<Stages>, began: std::time::Instant) -> Self {
        Self { stages: Some((stages, began)), ..self }
    }

    /// The same, with `opens` told, on this thread, once the other end has answered that the stream is open: before
    /// any byte of the destination is looked at.
    #[must_use]
    pub fn opens(self, opens: impl FnOnce() + 'static) -> Self {
        Self { opens: Some(Box::new(opens)), ..self }
    }

    /// The other end has answered that the stream is open.
    pub(crate) fn opened(&mut self) {
        if let Some(opens) = self.opens.take() {
            opens();
        }
    }

    /// Whether nobody looks at the bytes, which are counted only.
    pub(crate) const fn is_unseen(&self) -> bool {
        self.recognised.is_none()
    }

    /// The source says this.
    pub(crate) fn said_by_source(&mut self, bytes: &[u8]) {
        self.show(|recogniser, now, sink| recogniser.client(bytes, now, sink));
    }

    /// The destination says this.
    pub(crate) fn said_by_destination(&mut self, bytes: &[u8]) {
        self.show(|recogniser, now, sink| recogniser.server(bytes, now, sink));
    }

    /// That many bytes went from source to destination.
    pub(crate) fn add_sent(&self, bytes: usize) {
        self.counters.add_sent(u64::try_from(bytes).unwrap_or(0));
        self.passed(bytes, Stage::Sent);
    }

    /// That many bytes went from destination to source.
    pub(crate) fn add_received(&self, bytes: usize) {
        self.counters.add_received(u64::try_from(bytes).unwrap_or(0));
        self.passed(bytes, Stage::Received);
    }

    fn passed(&self, bytes: usize, stage: Stage) {
        if bytes > 0
            && let Some((stages, began)) = &self.stages
            && stages.after(stage).is_none()
        {
            stages.reached(stage, began.elapsed());
        }
    }

    /// The source says no more.
    pub(crate) fn source_ended(&mut self) {
        self.show(|recogniser, _, _| recogniser.client_ended());
    }

    /// The destination says no more.
    pub(crate) fn destination_ended(&mut self) {
        self.show(|recogniser, _, _| recogniser.server_ended());
    }

    /// It is over. Dropped without this, it was lost.
    pub(crate) fn ended(&mut self, how: End) {
        let ending = match how {
            End::Clean => Ending::Closed,
            End::ResetBySource => Ending::ResetByClient,
            End::ResetByDestination | End::Lost => Ending::Reset,
        };
        self.show(|recogniser, now, sink| recogniser.finish(ending, now, sink));
    }

    fn show(&mut self, show: impl FnOnce(&mut Recogniser, std::time::Duration, &mut dyn FnMut(Event))) {
        let Some(recognised) = &mut self.recognised else { return };
        show(&mut recognised.recogniser, recognised.began.elapsed(), &mut recognised.sink);
        if recognised.recogniser.is_silent() {
            self.recognised = None;
        }
    }
}

impl Drop for Recognised {
    fn drop(&mut self) {
        self.recogniser.finish(Ending::Reset, self.began.elapsed(), &mut self.sink);
    }
}

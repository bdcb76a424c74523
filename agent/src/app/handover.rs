//! Taking over from an agent that runs: its listeners come by descriptor, its hooks by link update.
//!
//! The new agent asks on the old one's handover socket (root's alone, by the file's mode). The old one
//! stops changing anything in the kernel, hands its listeners over and goes on carrying connections. The
//! new one captures every pod: each entry that it writes turns that pod's next connect to its own
//! listeners. Then it says `ready`, and the old one drains and ends. If the new one fails or stays silent
//! before that, the old one takes everything back. While it drains it tells the new one what it carries.

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use lark_core::view::DrainingView;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::Instant;

use super::drain::Drains;
use super::listeners::Listeners;

/// Version of this exchange; another one is refused.
const PROTOCOL: u32 = 2;
/// How long a new agent may need to capture everything.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);
const MESSAGE_MAX: usize = 4096;
/// How often an agent that drains says what it carries, and how long that may be.
const TELL_EVERY: Duration = Duration::from_millis(500);
const TOLD_MAX: u32 = 256 * 1024;

const READY: u8 = b'r';
const LEAVING: u8 = b'l';
const GIVING_UP: u8 = b'g';
const KEPT: u8 = b'k';

/// Who asks or answers. Both sides must be of one node and one place of pins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    pub(super) version: String,
    pub(super) node: String,
    pub(super) pin_root: String,
    /// Version of the maps' layout.
    pub(super) layout: u32,
}

impl Hello {
    pub(super) fn new(node: &str, pin_root: &Path) -> Self {
        Self {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: node.to_owned(),
            pin_root: pin_root.display().to_string(),
            layout: lark_abi::LAYOUT_VERSION,
        }
    }

    /// Why `new` may not take over from us, if so.
    fn refuses(&self, new: &Self) -> Option<String> {
        let differ = |what: &str, ours: &dyn std::fmt::Display, theirs: &dyn std::fmt::Display| {
            Some(format!("the agent that runs here has {what} {ours}, this one {theirs}"))
        };
        if self.protocol != new.protocol {
            return differ("handover protocol", &self.protocol, &new.protocol);
        }
        if self.layout != new.layout {
            return differ("map layout", &self.layout, &new.layout);
        }
        if self.node != new.node {
            return differ("node", &self.node, &new.node);
        }
        if self.pin_root != new.pin_root {
            return differ("pins in", &self.pin_root, &new.pin_root);
        }
        None
    }
}

#[derive(Serialize, Deserialize)]
struct Answer {
    version: String,
    refused: Option<String>,
}

/// The agent that ran before; it carries on until it is told.
pub(super) struct Predecessor {
    stream: UnixStream,
    /// When it handed over, which is when it began to wait.
    asked: Instant,
}

/// The agent that ran before goes on, since this one took too long.
#[derive(Debug, thiserror::Error)]
#[error("the agent that runs here has waited for {LIMIT:?} and goes on; nothing was taken over, try again")]
pub(super) struct GoesOn;

impl Predecessor {
    /// Asks for the listeners.
    ///
    /// # Errors
    /// When it refuses or does not answer; it goes on as before then.
    pub(super) fn ask(path: &Path, hello: &Hello) -> anyhow::Result<(Self, Listeners)> {
        let at = path.display();
        let stream = StdStream::connect(path)
            .with_context(|| format!("the agent that runs here does not hand over on {at}; stop it first"))?;
        stream.set_read_timeout(Some(ANSWER))?;
        let asked = Instant::now();
        lark_sys::handover::send(&stream, &serde_json::to_vec(hello)?, &[])?;
        let mut buffer = [0; MESSAGE_MAX];
        let (read, descriptors) = lark_sys::handover::receive(&stream, &mut buffer)
            .with_context(|| format!("the agent that runs here did not answer on {at} within {ANSWER:?}"))?;
        let answer: Answer = serde_json::from_slice(buffer.get(..read).unwrap_or_default())
            .with_context(|| format!("the answer of the agent that runs here, on {at}, is not understood"))?;
        if let Some(why) = answer.refused {
            bail!("cannot take over: {why}");
        }
        let listeners = Listeners::inherit(descriptors)
            .context("the agent that runs here did not hand over all of its listeners; stop it first")?;
        stream.set_nonblocking(true)?;
        tracing::info!(version = answer.version, "taking over");
        Ok((Self { stream: UnixStream::from_std(stream)?, asked }, listeners))
    }

    /// Until when everything is to be captured here; a while later the old agent waits no more.
    pub(super) fn deadline(&self) -> Instant {
        self.asked + LIMIT
    }

    /// Everything is captured here: the old agent may go. That it is gone already, or is silent, is as good:
    /// what it reads first when it runs again is that it may go.
    ///
    /// # Errors
    /// When it has taken everything back before.
    pub(super) async fn ready(&mut self) -> Result<(), GoesOn> {
        // What it said before it hung up can be read though nothing can be written.
        let told = self.stream.write_u8(READY).await;
        match (told, tokio::time::timeout(ANSWER, self.stream.read_u8()).await) {
            (_, Ok(Ok(KEPT))) => return Err(GoesOn),
            (Ok(()), Ok(Ok(LEAVING))) => {}
            (told, heard) => {
                tracing::warn!(?told, ?heard, "the old agent does not answer; it is gone already")
            }
        }
        Ok(())
    }

    /// This agent cannot do it: the old one takes everything back.
    ///
    /// # Errors
    /// When it does not say so.
    pub(super) async fn give_up(&mut self) -> io::Result<()> {
        self.stream.write_u8(GIVING_UP).await?;
        let heard = tokio::time::timeout(ANSWER, self.stream.read_u8()).await??;
        if heard == KEPT { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Passes on what the old agent says while it drains. Resolves when it has ended.
    pub(super) async fn gone(mut self, mut hear: impl FnMut(Vec<DrainingView>)) {
        loop {
            match hear_one(&mut self.stream).await {
                Ok(told) => hear(told),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::warn!(%error, "what the old agent says while it drains is not understood");
                    // Its end is still to be waited for.
                    end_of(&mut self.stream).await;
                    break;
                }
                Err(_) => break,
            }
        }
        hear(Vec::new());
    }
}

/// Serves successors until one has taken over; what [`tell`] says goes to that one. `paused` is true while
/// one tries.
pub(super) async fn succeeded(
    listener: UnixListener,
    listeners: &Listeners,
    own: &Hello,
    paused: &watch::Sender<bool>,
) -> UnixStream {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        match admit(&mut stream, listeners, own, paused).await {
            Ok(Some(new)) => {
                let outcome = tokio::time::timeout(LIMIT + ANSWER, stream.read_u8()).await;
                if matches!(outcome, Ok(Ok(READY))) {
                    let _ = stream.write_u8(LEAVING).await;
                    tracing::info!(version = new.version, "another agent has taken over");
                    return stream;
                }
                tracing::warn!(
                    version = new.version,
                    ?outcome,
                    "the agent that was to take over did not; this one goes on"
                );
                // Taken back once the other has ended, or it might write over what this one writes.
                let _ = stream.write_u8(KEPT).await;
                let _ = tokio::time::timeout(ANSWER, end_of(&mut stream)).await;
                paused.send_replace(false);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "a handover broke off"),
        }
    }
}

/// Resolves when the other end has hung up.
async fn end_of(stream: &mut UnixStream) {
    let _ = tokio::io::copy(stream, &mut tokio::io::sink()).await;
}

async fn hear_one(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<DrainingView>> {
    let length = stream.read_u32().await?;
    if length > TOLD_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{length} bytes at once")));
    }
    let mut told = vec![0; usize::try_from(length).unwrap_or_default()];
    stream.read_exact(&mut told).await?;
    serde_json::from_slice(&told).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

async fn tell_one(stream: &mut (impl AsyncWrite + Unpin), told: &[DrainingView]) -> io::Result<()> {
    let told = serde_json::to_vec(told)?;
    let length = u32::try_from(told.len()).ok().filter(|length| *length <= TOLD_MAX);
    // More than a successor takes is not told; the next time it may be less.
    let Some(length) = length else { return Ok(()) };
    stream.write_all(&[&length.to_be_bytes(), told.as_slice()].concat()).await
}

/// Tells a successor, for as long as it listens, what drains here. The stream stays open until this
/// process ends, which is what a successor waits for.
pub(super) async fn tell(mut successor: UnixStream, drains: Drains) {
    while tell_one(&mut successor, &drains.views()).await.is_ok() {
        tokio::time::sleep(TELL_EVERY).await;
    }
    std::future::pending::<()>().await;
}

/// Hands the listeners over, unless the other may not have them.
async fn admit(
    stream: &mut UnixStream,
    listeners: &Listeners,
    own: &Hello,
    paused: &watch::Sender<bool>,
) -> anyhow::Result<Option<Hello>> {
    let mut buffer = [0; MESSAGE_MAX];
    let read = tokio::time::timeout(ANSWER, stream.read(&mut buffer)).await??;
    let new: Hello = serde_json::from_slice(buffer.get(..read).unwrap_or_default())?;
    let refused = own.refuses(&new);
    let admitted = refused.is_none();
    let answer = serde_json::to_vec(&Answer { version: own.version.clone(), refused })?;
    let descriptors = listeners.descriptors();
    // Nothing of the kernel's is changed by this agent from here on.
    paused.send_replace(admitted);
    let sent = lark_sys::handover::send(&*stream, &answer, if admitted { &descriptors } else { &[] });
    if sent.is_err() {
        paused.send_replace(false);
    }
    sent?;
    Ok(admitted.then_some(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_node_layout_and_pins_may_take_over() {
        let own = Hello::new("one", Path::new("/pins"));
        assert_eq!(own.refuses(&Hello { version: "9.9.9".to_owned(), ..own.clone() }), None);
        for other in [
            Hello { protocol: 99, ..own.clone() },
            Hello { layout: 99, ..own.clone() },
            Hello { node: "two".to_owned(), ..own.clone() },
            Hello { pin_root: "/others".to_owned(), ..own.clone() },
        ] {
            assert!(own.refuses(&other).is_some(), "{other:?}");
        }
    }

    #[tokio::test]
    async fn who_goes_on_is_told_apart_from_who_is_gone() -> anyhow::Result<()> {
        for (said, goes_on) in [(Some(KEPT), true), (Some(LEAVING), false), (None, false)] {
            let (mut old, new) = UnixStream::pair()?;
            if let Some(said) = said {
                old.write_u8(said).await?;
            }
            // It has hung up; what it said before is still to be read.
            drop(old);
            let mut predecessor = Predecessor { stream: new, asked: Instant::now() };
            assert_eq!(predecessor.ready().await.is_err(), goes_on, "{said:?}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn what_drains_is_told_and_an_endless_message_is_not_believed() -> io::Result<()> {
        let (mut old, mut new) = UnixStream::pair()?;
        let told = vec![DrainingView {
            version: "0.1.0".to_owned(),
            process: 7,
            ends_in_seconds: 20,
            connections_open: 1,
            connections: Vec::new(),
        }];
        tell_one(&mut old, &told).await?;
        assert_eq!(hear_one(&mut new).await?, told);
        old.write_u32(u32::MAX).await?;
        assert!(hear_one(&mut new).await.is_err_and(|e| e.kind() == io::ErrorKind::InvalidData));
        drop(old);
        assert!(hear_one(&mut new).await.is_err_and(|e| e.kind() == io::ErrorKind::UnexpectedEof));
        Ok(())
    }
}

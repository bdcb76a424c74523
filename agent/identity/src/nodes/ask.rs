//! Questions to agents, asked on the streams that they keep: nobody dials a node for them.
//!
//! Invariants: an answer, and all that are on their way together, are bounded before they are kept; a question is
//! bounded by time, and of questions there are a few at a time on one stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{Answered, Ask};

/// How long an agent may take for its answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Largest answer of one agent, in bytes: its tables are bounded far below.
const ANSWER_MAX: usize = 8 * 1024 * 1024;
/// Bytes of all answers that are on their way.
const WAITING_MAX: usize = 64 * 1024 * 1024;
/// Questions under way on one stream.
const AT_ONCE: usize = 4;

/// Why a node gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Its agent has no stream to this controller.
    #[error("its agent does not follow this controller; is it running, and can it reach the controller?")]
    NotFollowing,
    /// It said nothing in time; one of an older version does not know of questions.
    #[error("its agent did not answer within {LIMIT:?}; is it busy, or of an older version?")]
    TimedOut,
    /// Others are asked already.
    #[error("its agent is asked for too much already; ask again")]
    Busy,
    /// Too many answers are on their way.
    #[error("too much is being answered at once; ask again, or ask it on its own node")]
    Crowded,
    /// The answer is larger than is taken.
    #[error("its agent's answer has more than {ANSWER_MAX} bytes; ask it on its own node")]
    TooLarge,
    /// It has no answer; with its words.
    #[error("its agent answered {status}: {said}")]
    Refused {
        /// The status, as of HTTP.
        status: u32,
        /// What it said.
        said: String,
    },
}

type Reply = oneshot::Sender<Result<Vec<u8>, AskError>>;

/// A question on its way to a stream.
#[derive(Debug)]
pub(super) struct Wanted {
    path: String,
    reply: Reply,
}

type Streams = Arc<Mutex<HashMap<Arc<str>, mpsc::Sender<Wanted>>>>;

/// Where questions for a node go: to the stream that it opened last.
#[derive(Debug)]
pub(super) struct Desk {
    streams: Streams,
    /// A permit for each byte that may be on its way.
    room: Arc<Semaphore>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { streams: Streams::default(), room: Arc::new(Semaphore::new(WAITING_MAX)) }
    }
}

/// A stream's place at the desk; given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    desk: Streams,
    node: Arc<str>,
    own: mpsc::Sender<Wanted>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// A place for a node's newest stream.
    pub(super) fn place(&self, node: &Arc<str>) -> (Place, mpsc::Receiver<Wanted>) {
        let (own, wanted) = mpsc::channel(AT_ONCE);
        locked(&self.streams).insert(node.clone(), own.clone());
        (Place { desk: self.streams.clone(), node: node.clone(), own }, wanted)
    }

    /// What keeps the questions of one stream.
    pub(super) fn asking(&self) -> Asking {
        Asking { room: self.room.clone(), last: 0, open: HashMap::new() }
    }

    pub(super) async fn ask(&self, node: &str, path: &str) -> Result<Vec<u8>, AskError> {
        let stream = locked(&self.streams).get(node).cloned().ok_or(AskError::NotFollowing)?;
        let (reply, answer) = oneshot::channel();
        stream.try_send(Wanted { path: path.to_owned(), reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AskError::Busy,
            mpsc::error::TrySendError::Closed(_) => AskError::NotFollowing,
        })?;
        match tokio::time::timeout(LIMIT, answer).await {
            Ok(Ok(answer)) => answer,
            // The stream ended meanwhile.
            Ok(Err(_)) => Err(AskError::NotFollowing),
            Err(_) => Err(AskError::TimedOut),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut desk = locked(&self.desk);
        // A newer stream of the node may have taken the place.
        if desk.get(&self.node).is_some_and(|now| now.same_channel(&self.own)) {
            desk.remove(&self.node);
        }
    }
}

#[derive(Debug)]
struct Open {
    reply: Reply,
    body: Vec<u8>,
    /// As many permits as the body has bytes.
    room: Option<OwnedSemaphorePermit>,
}

/// The questions under way on one stream.
#[derive(Debug)]
pub(super) struct Asking {
    room: Arc<Semaphore>,
    last: u64,
    open: HashMap<u64, Open>,
}

impl Asking {
    /// The question as the agent is to get it; none if there are too many.
    pub(super) fn ask(&mut self, wanted: Wanted) -> Option<Ask> {
        // Whoever does not wait any more has no room.
        self.open.retain(|_, open| !open.reply.is_closed());
        let Wanted { path, reply } = wanted;
        if self.open.len() >= AT_ONCE {
            let _ = reply.send(Err(AskError::Busy));
            return None;
        }
        self.last += 1;
        self.open.insert(self.last, Open { reply, body: Vec::new(), room: None });
        Some(Ask { number: self.last, path })
    }

    /// Takes in a part. One that nobody waits for is passed over.
    pub(super) fn answered(&mut self, part: Answered) {
        let Some(mut open) = self.open.remove(&part.number) else { return };
        if open.reply.is_closed() {
            return;
        }
        if open.body.len() + part.part.len() > ANSWER_MAX {
            let _ = open.reply.send(Err(AskError::TooLarge));
            return;
        }
        let bytes = u32::try_from(part.part.len()).unwrap_or(u32::MAX);
        match (self.room.clone().try_acquire_many_owned(bytes), &mut open.room) {
            (Ok(more), Some(room)) => room.merge(more),
            (Ok(more), room) => *room = Some(more),
            (Err(_), _) => {
                let _ = open.reply.send(Err(AskError::Crowded));
                return;
            }
        }
        open.body.extend_from_slice(&part.part);
        if !part.last {
            self.open.insert(part.number, open);
            return;
        }
        let answer = match part.status {
            200 => Ok(open.body),
            status => {
                let said = String::from_utf8_lossy(&open.body);
                Err(AskError::Refused { status, said: said.trim().chars().take(200).collect() })
            }
        };
        let _ = open.reply.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u64, bytes: &[u8], last: bool) -> Answered {
        Answered { number, status: 200, part: bytes.to_vec(), last }
    }

    fn wanted() -> (Wanted, oneshot::Receiver<Result<Vec<u8>, AskError>>) {
        let (reply, answer) = oneshot::channel();
        (Wanted { path: "/v1/edges".to_owned(), reply }, answer)
    }

    #[tokio::test]
    async fn parts_of_several_answers_find_their_questions() {
        let mut asking = Desk::default().asking();
        let (one, first) = wanted();
        let (two, second) = wanted();
        let (one, two) = (asking.ask(one).unwrap().number, asking.ask(two).unwrap().number);
        asking.answered(part(one, b"ab", false));
        asking.answered(part(two, b"xy", true));
        asking.answered(part(99, b"??", true));
        asking.answered(part(one, b"cd", true));
        assert_eq!(first.await.unwrap(), Ok(b"abcd".to_vec()));
        assert_eq!(second.await.unwrap(), Ok(b"xy".to_vec()));
        assert!(asking.open.is_empty());
    }

    #[tokio::test]
    async fn an_answer_is_bounded_and_so_are_questions() {
        let mut asking = Desk::default().asking();
        let (large, answer) = wanted();
        let number = asking.ask(large).unwrap().number;
        let whole = vec![0; ANSWER_MAX];
        asking.answered(part(number, &whole, false));
        asking.answered(part(number, b"!", true));
        assert_eq!(answer.await.unwrap(), Err(AskError::TooLarge));
        let kept: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let (wanted, answer) = wanted();
                asking.ask(wanted).unwrap();
                answer
            })
            .collect();
        let (more, answer) = wanted();
        assert_eq!(asking.ask(more), None);
        assert_eq!(answer.await.unwrap(), Err(AskError::Busy));
        // Those who went away make room.
        drop(kept);
        let (again, _answer) = wanted();
        assert!(asking.ask(again).is_some());
    }

    #[tokio::test]
    async fn answers_on_their_way_are_bounded_together_and_give_back_their_room() {
        let desk = Desk::default();
        let whole = vec![0; ANSWER_MAX];
        let mut streams: Vec<Asking> = Vec::new();
        let mut waiting = Vec::new();
        for _ in 0..WAITING_MAX / ANSWER_MAX {
            let mut stream = desk.asking();
            let (large, answer) = wanted();
            let number = stream.ask(large).unwrap().number;
            stream.answered(part(number, &whole, false));
            streams.push(stream);
            waiting.push(answer);
        }
        let mut last = desk.asking();
        let (more, refused) = wanted();
        let number = last.ask(more).unwrap().number;
        last.answered(part(number, b"x", true));
        assert_eq!(refused.await.unwrap(), Err(AskError::Crowded));
        // A stream that ends takes what waits on it away, and so does an answer that is whole.
        drop(streams.pop());
        streams[0].answered(part(1, b"", true));
        assert_eq!(waiting.swap_remove(0).await.unwrap().unwrap().len(), ANSWER_MAX);
        assert_eq!(desk.room.available_permits(), 2 * ANSWER_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_asked_on_its_newest_stream_for_a_limited_time() {
        let desk = Desk::default();
        let node: Arc<str> = "one".into();
        assert_eq!(desk.ask("one", "/").await, Err(AskError::NotFollowing));
        let (old, mut at_old) = desk.place(&node);
        let (_new, mut at_new) = desk.place(&node);
        drop(old);
        assert_eq!(desk.ask("one", "/").await, Err(AskError::TimedOut));
        assert!(at_old.try_recv().is_err());
        assert_eq!(at_new.try_recv().unwrap().path, "/");
        drop(at_new);
        assert_eq!(desk.ask("one", "/").await, Err(AskError::NotFollowing));
    }
}

//! What waits for the node's socket, in pieces that hold several records each.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;

use super::seal::RECORD;

/// Bytes of a piece: what a bulk stream reads at once makes a few of them.
pub(super) const PIECE: usize = 4 * RECORD;
/// Pieces that a worker keeps for whichever of its tunnels has something to say next.
const SPARE: usize = 8;

thread_local! {
    static SPARES: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that [`Outgoing::pack`] lets lie unused.
const SLACK: usize = 1024;

/// Bytes that wait, in order. It has memory only while there are some.
#[derive(Default)]
pub(super) struct Outgoing {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are gone.
    gone: usize,
}

struct Piece {
    bytes: Box<[u8]>,
    filled: usize,
}

impl Piece {
    fn new() -> Self {
        let spare = SPARES.with_borrow_mut(Vec::pop);
        Self { bytes: spare.unwrap_or_else(|| vec![0; PIECE].into_boxed_slice()), filled: 0 }
    }

    fn waiting(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.filled..).unwrap_or_default()
    }

    /// Bytes that may be added.
    fn free(&self) -> usize {
        self.bytes.len() - self.filled
    }

    fn give_back(self) {
        if self.bytes.len() < PIECE {
            return;
        }
        SPARES.with_borrow_mut(|spares| {
            if spares.len() < SPARE {
                spares.push(self.bytes);
            }
        });
    }
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Room for so many bytes in a row, at most [`PIECE`], to be filled and then [added](Self::add); less than that
    /// only if more than a piece holds was wanted.
    pub(super) fn room(&mut self, count: usize) -> &mut [u8] {
        if self.pieces.back().is_none_or(|last| last.free() < count) {
            self.pieces.push_back(Piece::new());
        }
        let room = self.pieces.back_mut().map(Piece::room).unwrap_or_default();
        let count = count.min(room.len());
        room.get_mut(..count).unwrap_or_default()
    }

    /// So many bytes of the [room](Self::room) wait from now on.
    pub(super) fn add(&mut self, count: usize) {
        if let Some(last) = self.pieces.back_mut() {
            last.filled = last.bytes.len().min(last.filled + count);
        }
    }

    /// Puts those bytes behind the others.
    pub(super) fn extend(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let free = self.pieces.back().map_or(0, Piece::free);
            let (now, later) = bytes.split_at(bytes.len().min(if free == 0 { PIECE } else { free }));
            self.room(now.len()).copy_from_slice(now);
            self.add(now.len());
            bytes = later;
        }
    }

    /// The first bytes, in as many pieces as there are places for. Returns how many pieces that are.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut skipped = self.gone;
        let pieces = self.pieces.iter().map(Piece::waiting);
        let pairs = slices.iter_mut().zip(pieces);
        pairs
            .map(|(slice, piece)| {
                *slice = IoSlice::new(piece.get(std::mem::take(&mut skipped)..).unwrap_or_default());
            })
            .count()
    }

    /// The first so many bytes are sent.
    pub(super) fn sent(&mut self, count: usize) {
        self.gone += count;
        while let Some(first) = self.pieces.pop_front_if(|first| first.filled <= self.gone) {
            self.gone -= first.filled;
            first.give_back();
        }
        if self.pieces.is_empty() {
            // A burst is no reason to keep its memory.
            self.pieces.shrink_to(4);
        }
    }

    /// Keeps what waits in no more memory than it needs.
    pub(super) fn pack(&mut self) {
        let mut gone = self.gone;
        for piece in &mut self.pieces {
            let waiting = piece.waiting().get(gone..).unwrap_or_default();
            if piece.bytes.len() - waiting.len() > SLACK {
                let packed = Piece { filled: waiting.len(), bytes: waiting.into() };
                std::mem::replace(piece, packed).give_back();
                // Of the first one only.
                self.gone -= gone;
            }
            gone = 0;
        }
    }

    /// Bytes that wait.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.filled).sum::<usize>() - self.gone
    }

    /// Takes all that waits.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn take(&mut self) -> Vec<u8> {
        let mut all: Vec<u8> = self.pieces.iter().flat_map(Piece::waiting).copied().collect();
        let waiting = all.split_off(self.gone);
        self.sent(waiting.len());
        waiting
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Extend(usize),
        /// Asks for room, and uses some of it.
        Room(usize, usize),
        Send(usize),
        Pack,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3 * PIECE).prop_map(Step::Extend),
            (0..=PIECE, 0..=PIECE).prop_map(|(asked, used)| Step::Room(asked, used.min(asked))),
            (0..3 * PIECE).prop_map(Step::Send),
            Just(Step::Pack),
        ]
    }

    proptest! {
        #[test]
        fn what_waits_is_sent_in_order_and_once(steps in prop::collection::vec(step(), 1..30)) {
            let (mut outgoing, mut expected) = (Outgoing::default(), VecDeque::new());
            let mut next = 0_u8;
            let mut fresh = |count: usize| -> Vec<u8> {
                (0..count).map(|_| { next = next.wrapping_add(1); next }).collect()
            };
            for step in steps {
                match step {
                    Step::Extend(count) => {
                        let bytes = fresh(count);
                        outgoing.extend(&bytes);
                        expected.extend(bytes);
                    }
                    Step::Room(asked, used) => {
                        let bytes = fresh(used);
                        let room = outgoing.room(asked);
                        prop_assert_eq!(room.len(), asked);
                        room[..used].copy_from_slice(&bytes);
                        outgoing.add(used);
                        expected.extend(bytes);
                    }
                    Step::Send(most) => {
                        let mut slices = [IoSlice::new(&[]); 4];
                        let count = outgoing.slices(&mut slices);
                        let offered: Vec<u8> = slices[..count].iter().flat_map(|s| s.iter().copied()).collect();
                        let sent = most.min(offered.len());
                        let due: Vec<u8> = expected.drain(..sent).collect();
                        prop_assert_eq!(&offered[..sent], &due);
                        outgoing.sent(sent);
                    }
                    Step::Pack => {
                        outgoing.pack();
                        let memory: usize = outgoing.pieces.iter().map(|piece| piece.bytes.len()).sum();
                        prop_assert!(memory <= expected.len() + outgoing.pieces.len() * SLACK);
                    }
                }
                prop_assert_eq!(outgoing.len(), expected.len());
            }
            prop_assert_eq!(outgoing.take(), Vec::from(expected));
            prop_assert!(outgoing.is_empty());
        }
    }

    #[test]
    fn what_was_asked_for_and_not_used_is_nothing_that_waits() {
        let mut outgoing = Outgoing::default();
        outgoing.room(10);
        let mut slices = [IoSlice::new(&[]); 4];
        let count = outgoing.slices(&mut slices);
        assert!(slices[..count].iter().all(|slice| slice.is_empty()));
        outgoing.sent(0);
        assert!(outgoing.is_empty());
    }
}

//! Whether a worker that has nothing left to do looks again for a moment before it sleeps.
//!
//! A wake-up of a sleeping CPU costs more than the bytes of a small message, so whoever expects an answer
//! within microseconds looks for it instead. Whoever mostly looks in vain only burns a CPU: after a few
//! vain looks only one in [`SKIP`] is made, until one finds something.

/// Vain looks in a row after which the most are left out.
const PATIENCE: u32 = 4;

/// Of that many occasions one is taken, once patience is over.
const SKIP: u32 = 32;

/// Wake-ups in one turn of the loop above which nobody needs to look: there is always something to do.
pub const BUSY: u64 = 3;

/// What the last looks have brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Looks {
    vain: u32,
    left_out: u32,
}

impl Looks {
    /// Whether to look this time.
    pub fn is_worth_it(&mut self) -> bool {
        if self.vain < PATIENCE {
            return true;
        }
        self.left_out = (self.left_out + 1) % SKIP;
        self.left_out == 0
    }

    /// Something was found, or nothing was.
    pub fn ended(&mut self, found: bool) {
        self.vain = if found { 0 } else { self.vain.saturating_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vain_looks_become_rare_and_one_that_finds_something_brings_them_back() {
        let mut looks = Looks::default();
        let mut count = 0;
        for _ in 0..PATIENCE + 10 * SKIP {
            if looks.is_worth_it() {
                count += 1;
                looks.ended(false);
            }
        }
        assert_eq!(count, PATIENCE + 10);
        looks.ended(true);
        assert!((0..10 * SKIP).all(|_| {
            let worth = looks.is_worth_it();
            looks.ended(true);
            worth
        }));
    }
}

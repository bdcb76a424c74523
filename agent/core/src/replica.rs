//! Several controllers of one mesh: who of them leads, and what each does with what it finds of the CA in the
//! cluster. Pure: what was read and the time are arguments.
//!
//! Every replica issues; one leads, which alone writes what is kept and keeps the streams of agents. That it is one is
//! for order and not for safety: whatever is written is written over exactly what was read, so of two that believe they
//! lead one fails.

mod lease;

pub use lease::{Act, Elector, Record, Terms};

/// What a replica finds of the CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// There is none.
    Nothing,
    /// It is the version that this replica holds.
    Same,
    /// It is another version.
    Other,
}

/// What a replica is itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    /// Whether it leads.
    pub leads: bool,
    /// Whether it holds the CA, from before.
    pub holds: bool,
    /// Whether a root is published that no CA is kept for: agents may trust it.
    pub published: bool,
}

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// What it holds is what counts, as of now.
    Confirm,
    /// It takes up what is there.
    Take,
    /// It makes a CA, the first one.
    Make,
    /// What it holds was deleted: it writes that again.
    PutBack,
    /// It waits for the leader.
    Wait,
    /// It makes none: agents trust a root whose key is lost, and another root would cut them all off.
    Refuse,
}

/// What a replica does with what it finds.
pub const fn does(found: Found, replica: Replica) -> Does {
    match (found, replica.leads) {
        (Found::Same, _) => Does::Confirm,
        (Found::Other, _) => Does::Take,
        (Found::Nothing, false) => Does::Wait,
        (Found::Nothing, true) if replica.holds => Does::PutBack,
        (Found::Nothing, true) if replica.published => Does::Refuse,
        (Found::Nothing, true) => Does::Make,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_is_made_by_the_leader_alone_and_never_beside_one_that_agents_may_trust() {
        for bits in 0..8 {
            let (leads, holds, published) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0);
            let replica = Replica { leads, holds, published };
            assert_eq!(does(Found::Same, replica), Does::Confirm);
            assert_eq!(does(Found::Other, replica), Does::Take);
            let makes = does(Found::Nothing, replica) == Does::Make;
            assert_eq!(makes, leads && !holds && !published, "{replica:?}");
            let writes = matches!(does(Found::Nothing, replica), Does::Make | Does::PutBack);
            assert!(!writes || leads, "{replica:?}");
        }
    }
}

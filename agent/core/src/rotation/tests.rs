use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::constants::SVID_LIFE;

const OLD: RootId = RootId::new([1; 32]);
const NEW: RootId = RootId::new([2; 32]);

fn holds(epoch: u64, roots: &[RootId], svids: &[RootId]) -> Option<Report> {
    Some(Report { epoch, roots: roots.to_vec(), svids: svids.to_vec(), asking: false })
}

fn node(name: &str, report: Option<Report>) -> NodeFacts {
    NodeFacts { name: name.to_owned(), silent: Duration::ZERO, report }
}

fn next(state: &State, nodes: &[NodeFacts], now: u64) -> State {
    match step(state, nodes, now) {
        Step::Next(next) => next,
        Step::Stay(waiting) => panic!("{} waits for {waiting:?}", state.phase.label()),
    }
}

fn waits(state: &State, nodes: &[NodeFacts], now: u64) -> Vec<Why> {
    match step(state, nodes, now) {
        Step::Next(next) => panic!("went on to {}", next.phase.label()),
        Step::Stay(waiting) => waiting.into_iter().map(|w| w.why).collect(),
    }
}

#[test]
fn a_rotation_goes_through_its_phases_as_nodes_follow() {
    let steady = State::steady(OLD, 0);
    let trust = steady.begin(NEW, 0).unwrap();
    assert_eq!(trust.plan(), Plan { trusted: vec![NEW, OLD], issuer: OLD, serves: OLD });
    assert_eq!(waits(&trust, &[node("a", None)], 1), [Why::Unseen]);
    assert_eq!(waits(&trust, &[node("a", holds(1, &[OLD, NEW], &[OLD]))], 1), [Why::Unseen]);
    assert_eq!(waits(&trust, &[node("a", holds(2, &[OLD], &[OLD]))], 1), [Why::Lacks(NEW)]);
    let issue = next(&trust, &[node("a", holds(2, &[OLD, NEW], &[OLD]))], 1);
    assert_eq!(issue.plan(), Plan { trusted: vec![NEW, OLD], issuer: NEW, serves: OLD });
    let old = node("a", holds(3, &[OLD, NEW], &[OLD, NEW]));
    assert_eq!(waits(&issue, &[old], 2), [Why::HasSvidOf(OLD)]);
    let mut asking = holds(3, &[OLD, NEW], &[NEW]);
    asking.as_mut().unwrap().asking = true;
    assert_eq!(waits(&issue, &[node("a", asking)], 2), [Why::Asking]);
    let settle = next(&issue, &[node("a", holds(3, &[OLD, NEW], &[NEW]))], 2);
    let moved = [node("a", holds(4, &[OLD, NEW], &[NEW]))];
    assert_eq!(waits(&settle, &moved, 3), [Why::Settling(9)]);
    let retire = next(&settle, &moved, 2 + SETTLE.as_secs());
    assert_eq!(retire.plan(), Plan { trusted: vec![NEW], issuer: NEW, serves: NEW });
    assert_eq!(waits(&retire, &[node("a", holds(5, &[OLD, NEW], &[NEW]))], 20), [Why::Holds(OLD)]);
    let steady = next(&retire, &[node("a", holds(5, &[NEW], &[NEW]))], 20);
    assert_eq!(steady.phase, Phase::Steady { root: NEW });
}

#[test]
fn there_is_a_way_back_from_each_phase_before_the_end() {
    let trust = State::steady(OLD, 0).begin(NEW, 0).unwrap();
    let both = Phase::Issue { old: OLD, new: NEW };
    for phase in [trust.phase, both, Phase::Settle { old: OLD, new: NEW }] {
        let back = State { phase, ..trust.clone() }.abort(1).unwrap();
        assert_eq!(back.plan(), Plan { trusted: vec![OLD, NEW], issuer: OLD, serves: OLD });
        let (seen, all) = (back.epoch, [OLD, NEW]);
        assert_eq!(waits(&back, &[node("a", holds(seen, &all, &[NEW]))], 2), [Why::HasSvidOf(NEW)]);
        let retire = next(&back, &[node("a", holds(seen, &all, &[OLD]))], 2);
        assert_eq!(retire.phase, Phase::Retire { stays: OLD, goes: NEW });
        assert_eq!(retire.abort(3), Err(RotationRefused::TooLate));
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let steady = State::steady(OLD, 0);
    assert_eq!(steady.begin(OLD, 0), Err(RotationRefused::SameRoot));
    assert_eq!(steady.abort(0), Err(RotationRefused::None));
    assert_eq!(steady.without(["a".to_owned()]), Err(RotationRefused::None));
    let trust = steady.begin(NEW, 0).unwrap();
    assert_eq!(trust.begin(NEW, 0), Err(RotationRefused::UnderWay("trust")));
    assert_eq!(trust.abort(0).unwrap().abort(0), Err(RotationRefused::UnderWay("revert")));
}

#[test]
fn a_silent_node_holds_a_rotation_up_until_its_svids_have_expired_or_a_person_says_so() {
    let trust = State::steady(OLD, 0).begin(NEW, 0).unwrap();
    let silent =
        |seconds| [NodeFacts { name: "b".to_owned(), silent: Duration::from_secs(seconds), report: None }];
    assert_eq!(waits(&trust, &silent(60), 60), [Why::Silent(60)]);
    assert_eq!(waits(&trust, &silent(SVID_LIFE.as_secs()), 60), [Why::Silent(SVID_LIFE.as_secs())]);
    // One that was not heard for long may have got an SVID just before the rotation began.
    let long = SVID_LIFE.as_secs() + 3600;
    assert_eq!(waits(&trust, &silent(long), 60), [Why::Silent(long)]);
    next(&trust, &silent(long), long);
    let without = trust.without(["b".to_owned()]).unwrap();
    next(&without, &silent(60), 60);
    // It speaks again: it counts again.
    assert_eq!(waits(&without, &silent(1), 60), [Why::Unseen]);
}

#[test]
fn a_root_is_named_by_its_hash_and_by_nothing_else() {
    let name = OLD.to_string();
    assert_eq!(name, "01".repeat(32));
    assert_eq!(RootId::try_from(name), Ok(OLD));
    for wrong in ["", "01", &"0".repeat(63), &"g".repeat(64), &"é".repeat(32), &"+1".repeat(32)] {
        assert!(RootId::try_from(wrong.to_owned()).is_err(), "{wrong}");
    }
}

/// A node in the model: everything that is on its way to or from it may be late or lost.
#[derive(Debug, Clone)]
struct Model {
    trusts: Vec<RootId>,
    svid: Option<(RootId, u64)>,
    epoch: u64,
    cut_off: bool,
    /// When the controller's last answer was taken up.
    answered: u64,
    /// An exchange under way: the report, then the answer.
    told: Option<(u64, Report)>,
    answer: Option<(u64, u64, Vec<RootId>)>,
    /// A request for a certificate under way, with what it says its agent holds, then what was signed.
    asked: Option<(u64, Report)>,
    signed: Option<(u64, RootId, u64)>,
    /// What the controller knows of it.
    report: Option<Report>,
    heard: u64,
}

impl Model {
    fn holds(&self, now: u64) -> Report {
        let svids = self.svid.filter(|s| s.1 > now).map(|s| s.0).into_iter().collect();
        let asking = self.asked.is_some() || self.signed.is_some();
        Report { epoch: self.epoch, roots: self.trusts.clone(), svids, asking }
    }
}

const PATIENCE: u64 = 10;
/// For so long a replica that has not heard of a change of phase goes on issuing, and the leader waits as long.
const FRESH: u64 = 4;
const NODES: usize = 2;

#[derive(Debug, Clone, Copy)]
enum Event {
    Tell(usize),
    Answer(usize),
    Apply(usize),
    /// All three.
    Exchange(usize),
    Ask(usize),
    Sign(usize),
    /// By a replica that has not heard of the last change of phase.
    SignBehind(usize),
    Take(usize),
    /// All three.
    Renew(usize),
    CutOff(usize),
    Time(u64),
    Step,
    Begin,
    Abort,
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..NODES).prop_map(Event::Tell),
        3 => (0..NODES).prop_map(Event::Answer),
        3 => (0..NODES).prop_map(Event::Apply),
        12 => (0..NODES).prop_map(Event::Exchange),
        4 => (0..NODES).prop_map(Event::Ask),
        4 => (0..NODES).prop_map(Event::Sign),
        3 => (0..NODES).prop_map(Event::SignBehind),
        4 => (0..NODES).prop_map(Event::Take),
        4 => (0..NODES).prop_map(Event::Renew),
        1 => (0..NODES).prop_map(Event::CutOff),
        4 => prop_oneof![10 => 0..8_u64, 1 => Just(40), 1 => Just(90_000)].prop_map(Event::Time),
        12 => Just(Event::Step),
        2 => Just(Event::Begin),
        1 => Just(Event::Abort),
        1 => Just(Event::Restart),
    ]
}

struct World {
    state: State,
    nodes: Vec<Model>,
    now: u64,
    roots: u8,
    /// The state before, and until when it was that.
    before: Option<(State, u64)>,
}

impl World {
    fn new() -> Self {
        let node = Model {
            trusts: vec![OLD],
            svid: Some((OLD, 100_000 + SVID_LIFE.as_secs())),
            epoch: 0,
            cut_off: false,
            answered: 100_000,
            told: None,
            answer: None,
            asked: None,
            signed: None,
            report: None,
            heard: 100_000,
        };
        Self { state: State::steady(OLD, 0), nodes: vec![node; NODES], now: 100_000, roots: 1, before: None }
    }

    /// Does what the event says, if it can happen now.
    fn happen(&mut self, event: Event) -> Option<()> {
        let (now, state) = (self.now, self.state.clone());
        let late = |since: u64| now - since > PATIENCE;
        match event {
            Event::Tell(n) => {
                let node = self.nodes.get_mut(n)?;
                if node.told.is_none() && node.answer.is_none() {
                    node.told = Some((now, node.holds(now)));
                }
            }
            Event::Answer(n) => {
                let node = self.nodes.get_mut(n)?;
                let (since, report) = node.told.take()?;
                if !node.cut_off && !late(since) {
                    node.report = Some(report);
                    node.heard = now;
                    node.answer = Some((since, state.epoch, state.plan().trusted));
                }
            }
            Event::Apply(n) => {
                let node = self.nodes.get_mut(n)?;
                let (since, epoch, trusted) = node.answer.take()?;
                if !late(since) {
                    (node.epoch, node.trusts, node.answered) = (epoch, trusted, now);
                }
            }
            Event::Exchange(n) => {
                for event in [Event::Tell(n), Event::Answer(n), Event::Apply(n)] {
                    self.happen(event);
                }
            }
            Event::Renew(n) => {
                for event in [Event::Ask(n), Event::Sign(n), Event::Take(n)] {
                    self.happen(event);
                }
            }
            Event::Ask(n) => {
                let node = self.nodes.get_mut(n)?;
                if node.signed.is_none() && node.asked.is_none() {
                    let mut held = node.holds(now);
                    if now - node.answered >= SILENT.as_secs() {
                        held.roots.clear();
                    }
                    node.asked = Some((now, held));
                }
            }
            Event::Sign(n) => self.sign(n, &state)?,
            Event::SignBehind(n) => {
                let (before, until) = self.before.clone()?;
                if now - until < FRESH {
                    self.sign(n, &before)?;
                }
            }
            Event::Take(n) => {
                let node = self.nodes.get_mut(n)?;
                let (since, root, until) = node.signed.take()?;
                if !late(since) && node.trusts.contains(&root) {
                    node.svid = Some((root, until));
                }
            }
            Event::CutOff(n) => {
                let node = self.nodes.get_mut(n)?;
                node.cut_off = !node.cut_off;
            }
            Event::Time(by) => {
                self.now += by;
                let now = self.now;
                for node in &mut self.nodes {
                    // An agent gives a request up; what comes later is not taken.
                    node.told.take_if(|t| now - t.0 > PATIENCE);
                    node.answer.take_if(|t| now - t.0 > PATIENCE);
                    node.asked.take_if(|t| now - t.0 > PATIENCE);
                    node.signed.take_if(|t| now - t.0 > PATIENCE);
                }
            }
            Event::Step if self.before.as_ref().is_some_and(|(_, until)| now - until < FRESH) => {}
            Event::Step => {
                let facts: Vec<NodeFacts> = self
                    .nodes
                    .iter()
                    .enumerate()
                    .map(|(n, node)| NodeFacts {
                        name: n.to_string(),
                        silent: Duration::from_secs(now - node.heard),
                        report: node.report.clone(),
                    })
                    .collect();
                if let Step::Next(next) = step(&state, &facts, now) {
                    self.change(next);
                }
            }
            Event::Begin => {
                let new = RootId::new([self.roots + 1; 32]);
                self.change(state.begin(new, now).ok()?);
                self.roots += 1;
            }
            Event::Abort => self.change(state.abort(now).ok()?),
            Event::Restart => {
                // Only the state is kept.
                for node in &mut self.nodes {
                    (node.report, node.heard) = (None, now);
                    (node.told, node.answer, node.asked) = (None, None, None);
                }
            }
        }
        Some(())
    }

    fn change(&mut self, next: State) {
        let before = std::mem::replace(&mut self.state, next);
        self.before = Some((before, self.now));
    }

    /// A replica of this state signs what a node asked for.
    fn sign(&mut self, n: usize, state: &State) -> Option<()> {
        let now = self.now;
        let node = self.nodes.get_mut(n)?;
        let (since, held) = node.asked.take()?;
        if !node.cut_off && now - since <= PATIENCE && may_have(state, Some(&held)) {
            node.signed = Some((since, state.plan().issuer, now + SVID_LIFE.as_secs()));
        }
        Some(())
    }

    /// Who takes part and lacks the root of a valid SVID.
    fn blind(&self) -> Option<String> {
        let live = |node: &Model| node.svid.filter(|s| s.1 > self.now).map(|s| s.0);
        for (n, verifier) in self.nodes.iter().enumerate().filter(|(_, v)| live(v).is_some()) {
            for (m, root) in self.nodes.iter().enumerate().filter_map(|(m, h)| Some((m, live(h)?))) {
                if !verifier.trusts.contains(&root) {
                    return Some(format!("{n} trusts {:?}, {m} has an SVID of {root:?}", verifier.trusts));
                }
            }
        }
        None
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_verifier_ever_lacks_the_root_of_a_live_svid(events in prop::collection::vec(event(), 0..400)) {
        let mut world = World::new();
        for (number, event) in events.into_iter().enumerate() {
            world.happen(event);
            let blind = world.blind();
            prop_assert!(blind.is_none(), "after event {number}, {event:?}, in {:?}: {blind:?}", world.state);
        }
    }

    #[test]
    fn the_way_back_closes_however_the_clock_is_set(
        since in 0..u64::MAX / 2, set in prop_oneof![any::<i32>().prop_map(i64::from), -30..30_i64], after in 0..12_u64
    ) {
        let settle = State { since, ..State::steady(OLD, 0).next(Phase::Settle { old: OLD, new: NEW }, 0) };
        let nodes = [node("a", holds(settle.epoch, &[OLD, NEW], &[NEW]))];
        // The clock is set by that much so many seconds after the phase began.
        let clock = |second: u64| {
            let set = if second < after { 0 } else { set };
            (since + second).saturating_add_signed(set)
        };
        let closed = (0..=60).find(|&second| matches!(step(&settle, &nodes, clock(second)), Step::Next(_)));
        let closed = closed.unwrap_or(u64::MAX);
        prop_assert!(closed <= after.min(SETTLE.as_secs()) + 2 * SETTLE.as_secs(), "after {closed} s");
        if after > SETTLE.as_secs() || set == 0 {
            prop_assert_eq!(closed, SETTLE.as_secs());
        } else if set > 0 {
            prop_assert!(closed <= SETTLE.as_secs());
        }
    }

    #[test]
    fn once_all_nodes_speak_a_rotation_ends_whatever_happened_before(
        events in prop::collection::vec(event(), 0..200), back: bool
    ) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
        }
        world.happen(Event::Begin);
        if back {
            world.happen(Event::Abort);
        }
        for node in &mut world.nodes {
            node.cut_off = false;
        }
        for _ in 0..40 {
            for n in 0..NODES {
                for event in [Event::Exchange(n), Event::Exchange(n), Event::Renew(n), Event::Exchange(n)] {
                    world.happen(event);
                }
            }
            world.happen(Event::Step);
            world.happen(Event::Time(3));
        }
        prop_assert!(matches!(world.state.phase, Phase::Steady { .. }), "{:?}", world.state);
    }
}

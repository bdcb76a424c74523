use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use lark_core::rotation::{Phase, Report, SETTLE};
use tempfile::TempDir;

use super::*;

fn domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

fn open(home: &TempDir) -> OnDisk {
    OnDisk::open(home.path(), &domain(), None, SystemTime::now()).unwrap()
}

fn names(home: &TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(home.path().join("roots")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn files(roots: &[(RootId, &[&str])]) -> Vec<String> {
    let mut names: Vec<String> = roots
        .iter()
        .flat_map(|(root, kinds)| kinds.iter().map(move |kind| format!("{}.{kind}", root.short())))
        .collect();
    names.sort();
    names
}

/// A node that holds what the phase wants of it.
fn follower(authority: &OnDisk) -> Vec<NodeFacts> {
    let state = authority.state();
    let plan = state.plan();
    let report =
        Report { epoch: state.epoch, roots: plan.trusted.clone(), svids: vec![plan.issuer], asking: false };
    vec![NodeFacts { name: "one".to_owned(), silent: Duration::ZERO, report: Some(report) }]
}

#[test]
fn a_ca_is_made_once_and_kept_for_its_owner_only() {
    let home = tempfile::tempdir().unwrap();
    let first = open(&home).state();
    let root = first.plan().issuer;
    assert_eq!(open(&home).state(), first);
    assert_eq!(names(&home), files(&[(root, &["key", "pem"])]));
    let key = home.path().join("roots").join(format!("{}.key", root.short()));
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(
        init(home.path(), &domain(), SystemTime::now()),
        Err(AuthorityError::Exists { root: r, .. }) if r == root
    ));
    // A part of a CA is an error, never a reason for a new one.
    std::fs::rename(&key, home.path().join("aside")).unwrap();
    let again = || OnDisk::open(home.path(), &domain(), None, SystemTime::now()).unwrap_err();
    assert!(matches!(again(), AuthorityError::Missing { .. }));
    std::fs::rename(home.path().join("aside"), &key).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(again(), AuthorityError::Ca(CaError::Open { mode: 0o644, .. })));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    open(&home);
    std::fs::remove_file(home.path().join("state.json")).unwrap();
    assert!(again().to_string().contains("it is missing while"), "{}", again());
    std::fs::write(home.path().join("state.json"), "{").unwrap();
    assert!(matches!(again(), AuthorityError::State { .. }));
}

#[test]
fn a_controller_that_is_opened_anew_in_each_phase_goes_on_where_it_was() {
    let home = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let old = open(&home).state().plan().issuer;
    let trust = open(&home).rotate(&domain(), now).unwrap();
    let Phase::Trust { new, .. } = trust.phase else { panic!("{trust:?}") };
    let both = files(&[(old, &["key", "pem"]), (new, &["key", "pem"])]);
    let (mut seen, mut at) = (vec!["trust"], now);
    loop {
        let authority = open(&home);
        let before = authority.state();
        let plan = before.plan();
        assert_eq!(authority.issuer().unwrap().root_id(), Some(plan.issuer));
        assert_eq!(authority.serving().unwrap().root_id(), Some(plan.serves));
        assert_eq!(authority.trust().roots.len(), plan.trusted.len());
        let published = std::fs::read_to_string(home.path().join("root.pem")).unwrap();
        assert_eq!(published, authority.trusted_pem());
        match before.phase {
            Phase::Steady { root } => {
                assert_eq!((root, names(&home)), (new, files(&[(new, &["key", "pem"])])));
                break;
            }
            Phase::Retire { .. } => {
                assert_eq!(names(&home), files(&[(old, &["pem"]), (new, &["key", "pem"])]));
            }
            _ => assert_eq!(names(&home), both),
        }
        // Killed between the state and the files that follow from it: the next one tidies up.
        at += SETTLE + Duration::from_secs(1);
        let next = authority.advance(&follower(&authority), at).unwrap().unwrap();
        seen.push(next.phase.label());
    }
    assert_eq!(seen, ["trust", "issue", "settle", "retire", "steady"]);
}

#[test]
fn a_root_that_was_made_and_never_named_by_the_state_is_swept_away() {
    let home = tempfile::tempdir().unwrap();
    let authority = open(&home);
    let root = authority.state().plan().issuer;
    // Killed after the new root's files and before the state.
    let (orphan, _) = Ca::create(&domain(), SystemTime::now()).unwrap();
    authority.disk.keep(&orphan).unwrap();
    assert_eq!(names(&home).len(), 4);
    open(&home);
    assert_eq!(names(&home), files(&[(root, &["key", "pem"])]));
}

#[test]
fn a_rotation_that_is_taken_back_leaves_the_old_root_alone() {
    let home = tempfile::tempdir().unwrap();
    let authority = open(&home);
    let old = authority.state().plan().issuer;
    let now = SystemTime::now();
    authority.rotate(&domain(), now).unwrap();
    assert!(matches!(authority.rotate(&domain(), now), Err(AuthorityError::Refused(_))));
    authority.advance(&follower(&authority), now).unwrap().unwrap();
    assert_eq!(authority.abort(now).unwrap().phase.label(), "revert");
    for phase in ["retire", "steady"] {
        assert_eq!(authority.advance(&follower(&authority), now).unwrap().unwrap().phase.label(), phase);
        authority.tidy().unwrap();
    }
    assert_eq!(names(&home), files(&[(old, &["key", "pem"])]));
    assert_eq!(open(&home).state().plan().issuer, old);
}

#[test]
fn what_cannot_be_written_has_not_happened() {
    let home = tempfile::tempdir().unwrap();
    let authority = open(&home);
    let before = authority.state();
    // Root may write anywhere: a directory in the way of the draft stops it too.
    std::fs::create_dir_all(home.path().join("state.json.new/x")).unwrap();
    assert!(matches!(authority.rotate(&domain(), SystemTime::now()), Err(AuthorityError::File { .. })));
    assert_eq!(authority.state(), before);
    assert_eq!(authority.issuer().unwrap().root_id(), Some(before.plan().issuer));
}

#[test]
fn a_given_ca_of_another_root_begins_a_rotation_and_its_predecessors_key_lasts_as_long_as_needed() {
    let home = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let make = || Ca::create(&domain(), now).unwrap().0;
    let (one, two, three) = (make(), make(), make());
    let (a, b, c) = (one.root_id().unwrap(), two.root_id().unwrap(), three.root_id().unwrap());
    let authority = OnDisk::open(home.path(), &domain(), Some(one), now).unwrap();
    assert_eq!(names(&home), files(&[(a, &["pem"])]), "its key is kept where it came from");
    assert!(matches!(authority.rotate(&domain(), now), Err(AuthorityError::Given)));
    assert_eq!(authority.offer(two, now).unwrap(), Offered::Begun);
    assert_eq!(authority.offer(three, now).unwrap(), Offered::Waits);
    assert_eq!(authority.issuer().unwrap().root_id(), Some(a));
    assert_eq!(names(&home), files(&[(a, &["key", "pem"]), (b, &["pem"])]));
    let mut late = now;
    for _ in 0..4 {
        late += SETTLE + Duration::from_secs(1);
        authority.advance(&follower(&authority), late).unwrap().unwrap();
        authority.tidy().unwrap();
    }
    assert_eq!(authority.state().phase, Phase::Steady { root: b });
    assert_eq!(names(&home), files(&[(b, &["pem"])]));
    // Now it is the third one's turn.
    assert_eq!(authority.advance(&follower(&authority), late).unwrap().unwrap().plan().trusted, [c, b]);
}

#[test]
fn a_given_ca_whose_rotation_was_taken_back_is_taken_up_by_a_person_alone() {
    let home = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let make = || Ca::create(&domain(), now).unwrap().0;
    let (one, two, three) = (make(), make(), make());
    let (a, b, c) = (one.root_id().unwrap(), two.root_id().unwrap(), three.root_id().unwrap());
    let again = |ca: &Ca| Ca::from_pem(&ca.secrets().0, &ca.secrets().1).unwrap();
    let open = |given: &Ca| OnDisk::open(home.path(), &domain(), Some(again(given)), now).unwrap();
    // To the end of whatever is under way, and a little further.
    let rest = |authority: &OnDisk| {
        (0..8).for_each(|_| drop(authority.advance(&follower(authority), now + SETTLE).unwrap()));
        authority.state().phase
    };
    let authority = open(&one);
    assert_eq!(authority.offer(again(&two), now).unwrap(), Offered::Begun);
    authority.abort(now).unwrap();
    assert_eq!(rest(&authority), Phase::Steady { root: a });
    assert!(authority.state().meaning().contains(&b.short()), "{}", authority.state().meaning());
    assert_eq!(authority.offer(again(&two), now).unwrap(), Offered::TakenBack);
    // By a restart neither.
    let authority = open(&two);
    assert_eq!(rest(&authority), Phase::Steady { root: a });
    let trust = authority.rotate(&domain(), now).unwrap();
    assert_eq!((trust.phase, trust.taken_back), (Phase::Trust { old: a, new: b }, None));
    assert!(matches!(authority.rotate(&domain(), now), Err(AuthorityError::Given)));

    // One that was given meanwhile does not begin either; one that is given afterwards does.
    assert_eq!(authority.offer(again(&three), now).unwrap(), Offered::Waits);
    authority.abort(now).unwrap();
    assert_eq!(rest(&authority), Phase::Steady { root: a });
    assert_eq!(authority.offer(again(&two), now).unwrap(), Offered::Begun);
    // What was put back before is no rotation that waits for a person.
    assert_eq!(authority.offer(again(&one), now).unwrap(), Offered::Same);
    assert_eq!(authority.abort(now).unwrap().taken_back, None);
    assert_eq!(rest(&authority), Phase::Steady { root: a });
    assert_eq!(authority.offer(three, now).unwrap(), Offered::Begun);
    assert_eq!(authority.state().phase, Phase::Trust { old: a, new: c });
}

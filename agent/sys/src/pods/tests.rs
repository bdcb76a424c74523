use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use super::*;

fn names(path: &str) -> Option<Meaning> {
    let name = path.rsplit('/').next()?;
    match name.strip_prefix("pod-") {
        Some(uid) => Some(Meaning::Pod(uid.to_owned())),
        None => name.starts_with("pods").then_some(Meaning::Pods),
    }
}

#[test]
fn a_pods_directory_is_found_below_its_parents_and_never_inside_of_another_pod() {
    let home = tempfile::tempdir().unwrap();
    let make = |path: &str| std::fs::create_dir_all(home.path().join(path)).unwrap();
    make("a/pods/pod-one/x/pods/pod-two");
    make("b/other/pod-three");
    let mut tree = PodTree::at(home.path().to_owned(), names);
    assert_eq!(tree.find("one"), Some(home.path().join("a/pods/pod-one")));
    assert_eq!(tree.find("two"), None);
    assert_eq!(tree.find("three"), None);
    // A later one in a parent that is known is seen with the next look.
    make("a/pods/pod-four");
    tree.look_anew();
    assert_eq!(tree.find("four"), Some(home.path().join("a/pods/pod-four")));
    std::fs::remove_dir(home.path().join("a/pods/pod-four")).unwrap();
    tree.look_anew();
    assert_eq!(tree.find("four"), None);
}

/// A cgroup of this test's own, gone with it.
struct Own(PathBuf);

impl Own {
    fn new(name: &str) -> Self {
        let path = cgroup::mount().unwrap().join(format!("{name}{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn make(&self, path: &str) -> PathBuf {
        let path = self.0.join(path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let (mut open, mut all) = (vec![self.0.clone()], Vec::new());
        while let Some(path) = open.pop() {
            open.extend(directories(&path));
            all.push(path);
        }
        for path in all.into_iter().rev() {
            let _gone = std::fs::remove_dir(path);
        }
    }
}

/// Waits until something is told, and returns it: what the kernel tells of processes comes a moment later.
fn told(watch: &mut PodWatch) -> News {
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        let news = watch.news();
        if news != News::default() {
            return news;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("nothing was told")
}

fn of(uid: &str) -> News {
    News { pods: [uid.to_owned()].into(), ..News::default() }
}

#[test]
fn the_kernel_tells_of_pods_their_containers_and_processes_and_of_nothing_else() {
    let own = Own::new("larkwatch");
    let parent = own.make("pods");
    let mut watch = PodWatch::new(own.0.clone(), names).unwrap();
    assert!(watch.above(&[parent.clone()].into()).unwrap());
    assert!(!watch.above(&[parent].into()).unwrap());
    // Beside pods: nothing. Another parent, and a pod.
    own.make("beside");
    own.make("pods/inside");
    let other = own.make("pods/pods-burst");
    let pod = own.make("pods/pod-one");
    assert_eq!(told(&mut watch), News { parents: [other].into(), ..of("one") });
    let uid: Arc<str> = "one".into();
    assert!(watch.follow(&uid, &pod).unwrap());
    assert!(watch.follows("one", &pod) && !watch.follow(&uid, &pod).unwrap());
    // A container comes, which is watched from then on, with a process in it.
    let container = own.make("pods/pod-one/c");
    assert_eq!(told(&mut watch), of("one"));
    assert!(!watch.is_followed("one"));
    assert!(watch.follow(&uid, &pod).unwrap());
    let mut sleep = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    std::fs::write(container.join("cgroup.procs"), sleep.id().to_string()).unwrap();
    assert_eq!(told(&mut watch), of("one"));
    let _still = watch.follow(&uid, &pod).unwrap();
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    assert_eq!(told(&mut watch), of("one"));
    // What is not followed any more is told by its parent alone, and leaves no watch.
    watch.keep(|_| false);
    let _late = watch.news();
    std::fs::remove_dir(&container).unwrap();
    std::fs::remove_dir(&pod).unwrap();
    assert_eq!(told(&mut watch), of("one"));
    let info = format!("/proc/self/fdinfo/{}", watch.as_fd().as_raw_fd());
    let watches = std::fs::read_to_string(info).unwrap().matches("inotify wd:").count();
    // The parent and the root of the tree.
    assert_eq!(watches, 2);
}

#[test]
fn a_pod_whose_cgroup_is_made_anew_is_followed_anew() {
    let own = Own::new("larkanew");
    let parent = own.make("pods");
    let pod = own.make("pods/pod-one");
    let mut watch = PodWatch::new(own.0.clone(), names).unwrap();
    let uid: Arc<str> = "one".into();
    watch.above(&[parent].into()).unwrap();
    assert!(watch.follow(&uid, &pod).unwrap());
    std::fs::remove_dir(&pod).unwrap();
    own.make("pods/pod-one");
    assert_eq!(told(&mut watch), of("one"));
    assert!(watch.follow(&uid, &pod).unwrap());
    own.make("pods/pod-one/c");
    assert_eq!(told(&mut watch), of("one"));
    // One that is gone has nothing that could be followed.
    assert!(watch.follow(&"two".into(), &own.0.join("pods/pod-two")).is_ok_and(|is_new| !is_new));
}

#[test]
fn this_process_is_young_and_in_its_own_cgroup() {
    let own = cgroup::own().unwrap();
    assert!(processes(own.path(), |_| false).len() <= PROCESSES);
    assert!(age(std::process::id()).unwrap() < Duration::from_secs(3600));
    assert!(age(u32::MAX).is_err());
}

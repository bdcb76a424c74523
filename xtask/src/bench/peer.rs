use std::fs::{self, File};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lark_testbed::Place;

use super::figures::{LARK, PLAIN, REFERENCE, RELAY};
use super::stage::CLIENT_UID;

/// How long a script may take for `up` or `down`.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a script is told.
pub(crate) type Environment = Vec<(&'static str, String)>;

/// Where a script finds the client's pod and the server's, the node of each, and the load client.
pub(crate) fn environment(pods: [(&Place, IpAddr); 2], nodes: [&Place; 2]) -> Environment {
    let netns = |place: &Place| place.netns.to_string_lossy().into_owned();
    let ([client, server], [one, two]) = (pods, nodes);
    vec![
        ("LARK_BENCH_NS_A", netns(client.0)),
        ("LARK_BENCH_NS_B", netns(server.0)),
        ("LARK_BENCH_NODE_NS_A", netns(one)),
        ("LARK_BENCH_NODE_NS_B", netns(two)),
        ("LARK_BENCH_IP_A", client.1.to_string()),
        ("LARK_BENCH_IP_B", server.1.to_string()),
        ("LARK_BENCH_CLIENT_UID", CLIENT_UID.to_string()),
    ]
}

/// A product that is measured beside Lark, by a script that brings it up and down.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    pub(crate) name: String,
    script: PathBuf,
    /// Where it is up.
    up: Option<(Place, Environment)>,
}

impl FromStr for Peer {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, script) = text.split_once('=').context("a peer is NAME=SCRIPT")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        ensure!(!name.is_empty() && name.chars().all(plain), "a peer's name has letters, digits, - and _");
        ensure!(![PLAIN, RELAY, REFERENCE, LARK].contains(&name), "{name} is measured anyway");
        let script = fs::canonicalize(script).with_context(|| format!("{script} cannot be found"))?;
        Ok(Self { name: name.to_owned(), script, up: None })
    }
}

impl Peer {
    /// Brings it up in that place and returns its processes.
    pub(crate) fn up(&mut self, place: Place, environment: Environment) -> Result<Vec<u32>> {
        self.up = Some((place, environment));
        let said = self.call("up")?;
        said.split_whitespace()
            .map(|word| {
                word.parse()
                    .with_context(|| format!("{} up printed {word:?}: process ids are expected", self.name))
            })
            .collect()
    }

    /// Takes it down; what it leaves behind is ended.
    pub(crate) fn down(&mut self) -> Result<()> {
        let result = match &self.up {
            Some(_) => self.call("down").map(|_| ()),
            None => Ok(()),
        };
        if let Some((place, _)) = self.up.take() {
            let _ = fs::write(place.cgroup.join("cgroup.kill"), "1");
        }
        result
    }

    /// Runs the script and returns what it printed. Its output goes to files: daemons that it leaves
    /// running would keep a pipe open.
    fn call(&self, verb: &str) -> Result<String> {
        let (place, environment) = self.up.as_ref().context("the peer is not up")?;
        let directory = std::env::temp_dir();
        let file =
            |kind: &str| directory.join(format!("peer-{}-{verb}-{}.{kind}", self.name, std::process::id()));
        let mut command: Command = place.command(&self.script);
        command.arg(verb).envs(environment.iter().map(|(name, value)| (*name, value)));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(File::create(file("out"))?)
            .stderr(File::create(file("err"))?)
            .spawn()?;
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > end {
                let _ = child.kill();
                bail!("{} {verb} did not end within {} s", self.name, PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let read = |kind| fs::read_to_string(file(kind)).unwrap_or_default();
        let (out, err) = (read("out"), read("err"));
        let _ = (fs::remove_file(file("out")), fs::remove_file(file("err")));
        ensure!(status.success(), "{} {verb}: {status}: {}", self.name, err.trim());
        Ok(out)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A failure of the bench must not leave a product running.
        let _ = self.down();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    /// A peer of that script, which runs in a directory that stands for its cgroup and in the network namespace of the
    /// test (entering one, also one's own, takes root).
    struct Fixture {
        peer: Peer,
        place: Place,
        directory: TempDir,
    }

    /// A script with those lines; `$D` is the fixture's directory. Named like no other peer: what a script prints goes
    /// to files of that name.
    fn fixture(name: &str, script: &str) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("script");
        let head = format!("#!/bin/sh\nD={}\n", directory.path().display());
        fs::write(&file, head + script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let place = Place { cgroup: directory.path().to_owned(), netns: "/proc/self/ns/net".into() };
        Fixture { peer: format!("{name}={}", file.display()).parse().unwrap(), place, directory }
    }

    impl Fixture {
        fn up(&mut self) -> Result<Vec<u32>> {
            let netns =
                |name: &str| Place { netns: format!("/run/netns/{name}").into(), ..self.place.clone() };
            let pods = [(&netns("client"), [10, 0, 0, 1].into()), (&netns("server"), [10, 0, 1, 2].into())];
            self.peer.up(self.place.clone(), environment(pods, [&netns("one"), &netns("two")]))
        }

        /// What the script or the peer wrote into a file of the directory.
        fn written(&self, name: &str) -> String {
            fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
        }
    }

    #[test]
    fn a_script_is_told_where_everything_is_and_waited_for_when_it_brings_a_product_up_and_down() {
        let mut fixture = fixture(
            "told",
            "env | grep ^LARK_BENCH_ | sort > $D/$1\n\
             echo $# $1 >> $D/calls\n\
             [ $1 = up ] || exit 0\n\
             echo 12; sleep 0.3; echo ' 345'\n\
             echo returned >> $D/calls\n",
        );
        assert_eq!(fixture.up().unwrap(), [12, 345]);
        assert_eq!(fixture.written("calls"), "1 up\nreturned\n");
        let told = "LARK_BENCH_CLIENT_UID=4242\n\
                    LARK_BENCH_IP_A=10.0.0.1\n\
                    LARK_BENCH_IP_B=10.0.1.2\n\
                    LARK_BENCH_NODE_NS_A=/run/netns/one\n\
                    LARK_BENCH_NODE_NS_B=/run/netns/two\n\
                    LARK_BENCH_NS_A=/run/netns/client\n\
                    LARK_BENCH_NS_B=/run/netns/server\n";
        assert_eq!(fixture.written("up"), told);
        assert_eq!(fixture.written("cgroup.kill"), "");

        fixture.peer.down().unwrap();
        assert_eq!(fixture.written("down"), told);
        // What is left of the product is ended with its cgroup, and it is down only once.
        assert_eq!(fixture.written("cgroup.kill"), "1");
        fixture.peer.down().unwrap();
        assert_eq!(fixture.written("calls"), "1 up\nreturned\n1 down\n");
    }

    #[test]
    fn a_script_that_leaves_a_product_running_is_not_waited_for_longer_than_it_takes_itself() {
        let mut fixture =
            fixture("daemon", "[ $1 = up ] || exec kill $(cat $D/pid)\nsleep 30 & echo $! | tee $D/pid");
        let began = Instant::now();
        let processes = fixture.up().unwrap();
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert_eq!(fixture.written("pid"), format!("{}\n", processes[0]));
        fixture.peer.down().unwrap();
    }

    #[test]
    fn a_script_that_fails_or_prints_anything_but_process_ids_is_reported_with_its_words() {
        for (name, script, words) in [
            (
                "fails",
                "echo 12; echo no such product >&2; exit 3",
                ["fails up", "exit status: 3", "no such product"],
            ),
            ("chatty", "echo 12 started", ["chatty up", "\"started\"", "process ids are expected"]),
            ("negative", "echo -12", ["negative up", "\"-12\"", "process ids are expected"]),
        ] {
            let mut fixture = fixture(name, &format!("echo $1 >> $D/calls\n[ $1 = up ] || exit 0\n{script}"));
            let error = format!("{:#}", fixture.up().unwrap_err());
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
            // What it may have begun is taken down all the same.
            fixture.peer = Peer::default();
            assert_eq!(fixture.written("calls"), "up\ndown\n");
        }
        let mut stuck = fixture("stuck", "[ $1 = up ] && exit\necho still running >&2; exit 1");
        assert_eq!(stuck.up().unwrap(), [0; 0]);
        let error = format!("{:#}", stuck.peer.down().unwrap_err());
        assert!(error.contains("stuck down") && error.contains("still running"), "{error}");
    }

    #[test]
    fn a_peer_needs_a_name_of_its_own_and_a_script() {
        let parsed =
            |text: &str| text.parse::<Peer>().map(|peer| peer.name.clone()).map_err(|e| e.to_string());
        assert_eq!(parsed("ztunnel=/bin/sh"), Ok("ztunnel".to_owned()));
        for wrong in ["ztunnel", "=/bin/sh", "lark=/bin/sh", "a b=/bin/sh", "x=/no/such/script"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}

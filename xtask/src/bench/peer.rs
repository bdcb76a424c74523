use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lark_testbed::Place;

use super::figures::{LARK, PLAIN, REFERENCE, RELAY};

/// How long a script may take for `up` or `down`.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a script is told.
pub(crate) type Environment = Vec<(&'static str, String)>;

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
    use super::Peer;

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

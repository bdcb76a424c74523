//! `lark token`: a secret for a node, and the line that makes the controller know it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use clap::Args;

/// Flags of `lark token`.
#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    /// The node that the token is for.
    ///
    /// No default. As discovery has it: the token gives the right to certificates of this node's
    /// workloads.
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// How long the node may wait with joining, in hours.
    ///
    /// Default 24. The token is good for one exchange; the credential that the node gets for it is renewed
    /// for as long as its line stays in the controller's file.
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=8760))]
    pub ttl: u32,
    /// File for the secret, to be brought to the node.
    ///
    /// No default. Made with mode 0600; an existing file is not overwritten.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Writes the secret into the file and prints the controller's line.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn run(args: &TokenArgs) -> anyhow::Result<()> {
    ensure!(
        !args.node.is_empty() && !args.node.contains(|c: char| c.is_whitespace() || c == '#'),
        "--node {:?} is no name of a node: it must not be empty or have blanks or '#'",
        args.node
    );
    let ttl = Duration::from_secs(u64::from(args.ttl) * 3600);
    let made = lark_identity::token::generate(SystemTime::now() + ttl)?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&args.out)
        .with_context(|| format!("{} cannot be made for the secret", args.out.display()))?;
    writeln!(file, "{}", made.secret.as_str())
        .with_context(|| format!("{} cannot be written", args.out.display()))?;
    writeln!(std::io::stdout().lock(), "{} {}", args.node, made.line)?;
    Ok(())
}

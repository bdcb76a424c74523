//! `lark token`: a secret for a node, and the line that makes the controller know it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

/// Flags of `lark token`.
#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    /// The node that the token is for.
    ///
    /// No default.
    #[arg(long, value_name = "NAME")]
    pub node: String,
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
    let (secret, hash) = lark_identity::token::generate()?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&args.out)
        .with_context(|| format!("{} cannot be made", args.out.display()))?;
    writeln!(file, "{secret}")?;
    writeln!(std::io::stdout().lock(), "{} {hash}", args.node)?;
    Ok(())
}

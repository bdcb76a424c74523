//! `lark completions`: what a shell needs to complete verbs and flags.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::output;

/// Flags of `lark completions`.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// The shell: bash, zsh, fish, elvish or powershell.
    ///
    /// No default. For bash: `lark completions bash > /etc/bash_completion.d/lark`.
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "lark", &mut script);
    output::write(&script)?;
    Ok(ExitCode::SUCCESS)
}

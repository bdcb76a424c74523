//! `lark version`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::output;

/// Flags of `lark version`.
#[derive(Debug, Clone, Args)]
pub struct VersionArgs {
    /// How to print: table, json or yaml.
    ///
    /// Default table.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: super::Format,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
    /// Version of the layout of the kernel's maps; agents of the same layout replace each other.
    layout: u32,
}

pub(super) fn run(args: &VersionArgs) -> anyhow::Result<ExitCode> {
    let version = Version { version: env!("CARGO_PKG_VERSION"), layout: lark_core::constants::LAYOUT };
    output::print(&version, args.output, |v| format!("lark {} (map layout {})\n", v.version, v.layout))?;
    Ok(ExitCode::SUCCESS)
}

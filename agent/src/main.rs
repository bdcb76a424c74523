//! `lark`: one binary, a verb each.

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use lark::cli::ca::{CaArgs, CaVerb};
use lark::cli::policy::PolicyCommand;
use lark::cli::{Cli, Command};

/// The name by which kubectl finds it, as `kubectl lark`.
const PLUGIN: &str = "kubectl-lark";

fn main() -> ExitCode {
    run(parse().command).unwrap_or_else(|error| {
        lark::app::complain(&error);
        ExitCode::FAILURE
    })
}

/// What was typed; usage says it as it was typed.
fn parse() -> Cli {
    let called = std::env::args_os().next().unwrap_or_default();
    let is_plugin = Path::new(&called).file_name().is_some_and(|name| name == PLUGIN);
    let command =
        if is_plugin { Cli::command().name(PLUGIN).bin_name("kubectl lark") } else { Cli::command() };
    Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    if matches!(command, Command::Agent(_) | Command::Controller(_) | Command::Token(_) | Command::Ca(_)) {
        lark::app::keep_private()?;
    }
    match command {
        Command::Agent(args) => lark::app::run(args).map(|()| ExitCode::SUCCESS),
        Command::Controller(args) => {
            lark::app::init_logs(args.log_format, &args.log);
            lark::app::block_on(lark::controller::run(args)).map(|()| ExitCode::SUCCESS)
        }
        Command::Token(args) => lark::controller::run_token(&args).map(|()| ExitCode::SUCCESS),
        Command::Ca(CaArgs { verb: CaVerb::Init(args) }) => {
            lark::controller::run_init(&args).map(|()| ExitCode::SUCCESS)
        }
        Command::Dashboard(args) => lark::app::block_on(lark::dashboard::run(&args)),
        Command::Policy(args) => match args.command {
            PolicyCommand::Test(test) if test.discovery.is_some() => lark::app::policy_test(&test),
            command => lark::app::block_on(lark::cli::run(Command::Policy(lark::cli::policy::PolicyArgs {
                command,
            }))),
        },
        query => lark::app::block_on(lark::cli::run(query)),
    }
}

//! `lark`: one binary, a verb each.

use std::process::ExitCode;

use clap::Parser;
use lark::cli::ca::{CaArgs, CaVerb};
use lark::cli::policy::PolicyCommand;
use lark::cli::{Cli, Command};

fn main() -> ExitCode {
    run(Cli::parse().command).unwrap_or_else(|error| {
        lark::app::complain(&error);
        ExitCode::FAILURE
    })
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

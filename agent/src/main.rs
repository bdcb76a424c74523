//! `lark`: one binary, a verb each.

use std::process::ExitCode;

use clap::Parser;
use lark::cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Agent(args) => lark::app::run(args).map(|()| ExitCode::SUCCESS),
        Command::Controller(args) => {
            lark::app::init_logs(args.log_format, &args.log);
            lark::app::block_on(lark::controller::run(args)).map(|()| ExitCode::SUCCESS)
        }
        Command::Token(args) => lark::controller::run_token(&args).map(|()| ExitCode::SUCCESS),
        query => lark::app::block_on(lark::cli::run(query)),
    };
    result.unwrap_or_else(|error| {
        lark::app::complain(&error);
        ExitCode::FAILURE
    })
}

use clap::CommandFactory;
use lark_core::view::{CheckView, Verdict};

use super::*;

fn walk(command: &clap::Command, path: &str) {
    let path = format!("{path} {}", command.get_name());
    assert!(command.get_about().is_some(), "{path} has no help");
    for argument in command.get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str())) {
        let name = argument.get_id();
        assert!(argument.get_help().is_some(), "{path} --{name} has no help");
        let long = argument.get_long_help().map(ToString::to_string).unwrap_or_default();
        assert!(long.contains("efault"), "{path} --{name} does not say its default: {long:?}");
    }
    command.get_subcommands().filter(|c| c.get_name() != "help").for_each(|c| walk(c, &path));
}

#[test]
fn every_verb_and_flag_has_help_that_says_its_default() {
    walk(&Cli::command(), "");
}

#[test]
fn only_a_failed_check_fails() {
    let check =
        |verdict| CheckView { subject: "x".to_owned(), verdict, found: String::new(), advice: String::new() };
    let code = |checks: &[CheckView]| format!("{:?}", check::exit_code(checks));
    assert_eq!(code(&[check(Verdict::Ok), check(Verdict::Warn)]), format!("{:?}", ExitCode::SUCCESS));
    assert_eq!(code(&[check(Verdict::Ok), check(Verdict::Fail)]), format!("{:?}", ExitCode::from(1)));
}

#[test]
fn a_table_is_aligned_by_characters() {
    let mut table = output::Table::new(&["A", "SECURED", "B"]);
    table.row(vec!["x".to_owned(), "√ mTLS".to_owned(), "1".to_owned()]);
    table.row(vec!["longer".to_owned(), "-".to_owned(), "2".to_owned()]);
    assert_eq!(table.render(), "A        SECURED   B\nx        √ mTLS    1\nlonger   -         2\n");
}

#[test]
fn numbers_are_said_as_people_say_them() {
    assert_eq!([0, 1023, 1536, 5 * 1024 * 1024].map(output::bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 MiB"]);
    assert_eq!([5, 65, 7320, 100_000].map(output::age), ["5s", "1m5s", "2h2m", "1d3h"]);
}

#[test]
fn a_reason_is_explained_and_an_unknown_one_gets_a_sentence() {
    let explain = |word: &str| {
        let reason = (!word.is_empty()).then(|| word.to_owned());
        explain::run(&explain::ExplainArgs { reason, output: Format::Json })
    };
    assert!(explain("").is_ok());
    assert!(explain("dial_refused").is_ok());
    let error = explain("dial_failure").map(|_| ()).map_err(|e| e.to_string());
    let sentence = "no reason is called \"dial_failure\"; perhaps ";
    assert!(error.as_ref().is_err_and(|e| e.starts_with(sentence) && e.contains("dial_failed")), "{error:?}");
}

#[test]
fn every_shell_gets_completions_with_every_verb() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let mut script = Vec::new();
        let shell: clap_complete::Shell = shell.parse().unwrap();
        clap_complete::generate(shell, &mut Cli::command(), "lark", &mut script);
        let script = String::from_utf8(script).unwrap();
        for verb in Cli::command().get_subcommands() {
            assert!(script.contains(verb.get_name()), "{shell}: {}", verb.get_name());
        }
    }
}

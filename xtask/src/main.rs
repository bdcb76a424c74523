//! Tasks of this repository, a file each: `cargo xtask TASK`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What Lark costs, in figures.
mod bench;
/// Dashboards for Grafana.
mod dashboards;
/// The story on this machine.
mod demo;
/// Licences, bans and duplicate versions.
mod deny;
/// Documents made from the code.
mod docs;
/// The programs for the BPF virtual machine.
mod ebpf;
/// Every fault, injected.
mod failures;
/// Inputs that strangers might send.
mod fuzz;
/// A container image without a container engine.
mod image;
/// What comes from Debian, from crates.io and from PyPI.
mod install;
/// Where functions lie in the binary.
mod layout;
/// The plain manifests, from the chart.
mod manifests;
/// Node.js, for the page.
mod node;
/// Pictures, for reports.
mod picture;
/// Processes, as the kernel has them.
mod process;
/// A large cluster, and two agents in it.
mod scale;
/// Traffic for hours, with everything around it changing.
mod soak;
/// Every test.
mod test;
/// The project's own rules.
mod tidy;
/// Another kernel, emulated.
mod vm;
/// The page.
mod web;

/// Builds, checks and shows Lark.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    /// What to do.
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Measure Lark against plain TCP, a relay, a reference tunnel and peers (needs root).
    Bench(bench::Args),
    /// Show the whole story on this machine with real programs (needs root).
    Demo(demo::Args),
    /// Check licences, bans and duplicate versions of every crate; advisories where a database is.
    Deny,
    /// Write the documents that are made from the code: reasons, command line, metrics; and man pages.
    Docs(docs::Args),
    /// Build the eBPF object that is committed.
    Ebpf {
        /// Rebuild it and compare, change nothing.
        #[arg(long)]
        check: bool,
    },
    /// Inject every fault and write docs/failures.md from what was seen (needs root).
    Failures,
    /// Measure what a large cluster costs an agent and the API server (needs root).
    Scale(scale::Args),
    /// Run mixed real traffic while pods, certificates and agents come and go, and judge leaks (needs root).
    Soak(soak::Args),
    /// Run the fuzz targets for a while, from the corpora that are kept.
    Fuzz(fuzz::Args),
    /// Make a container image as an OCI layout, without a container engine, and the list of what is inside.
    Image(image::Args),
    /// Write agent/layout.ld, by which functions that run together lie together, from what agents execute (needs root).
    Layout,
    /// Write the plain manifests of deploy/kubernetes from the chart.
    Manifests,
    /// Run every test, the privileged ones included (needs root).
    Test(test::Args),
    /// Check the rules that Cargo, rustc and clippy cannot.
    Tidy,
    /// Run the tests of what the kernel's TLS carries, on Debian's kernel in an emulated machine.
    Vm(vm::Args),
    /// Build the page that is committed and embedded, or check and try it.
    Web(web::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Bench(args) => bench::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Deny => deny::run(),
        Task::Docs(args) => docs::run(&args),
        Task::Ebpf { check } => ebpf::run(check),
        Task::Failures => failures::run(),
        Task::Scale(args) => scale::run(&args),
        Task::Soak(args) => soak::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Image(args) => image::run(&args),
        Task::Layout => layout::run(),
        Task::Manifests => manifests::run(),
        Task::Test(args) => test::run(&args),
        Task::Tidy => tidy::run(),
        Task::Vm(args) => vm::run(&args),
        Task::Web(args) => web::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            install::say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn every_task_and_flag_has_help() {
        fn walk(command: &clap::Command, lacking: &mut Vec<String>) {
            for sub in command.get_subcommands() {
                if sub.get_about().is_none() {
                    lacking.push(sub.get_name().to_owned());
                }
                for arg in sub.get_arguments().filter(|a| a.get_help().is_none()) {
                    lacking.push(format!("{} {}", sub.get_name(), arg.get_id()));
                }
                walk(sub, lacking);
            }
        }
        let mut lacking = Vec::new();
        walk(&Cli::command(), &mut lacking);
        assert_eq!(lacking, Vec::<String>::new());
    }
}

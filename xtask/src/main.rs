//! What a developer or CI runs. Each command has a file of its own and nothing is shared but [`shell`] and [`toolchain`].

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task tells the person who started it what it does"
)]

mod bench;
mod build_ebpf;
mod demo;
mod fuzz;
mod image;
mod lint;
mod manifest;
mod setup;
mod shell;
mod test;
mod toolchain;
mod vm;

use anyhow::Result;
use clap::Parser;
use std::process::ExitCode;

/// redial's tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Install what building, the demo and the tests need; safe to repeat.
    Setup(setup::Args),
    /// Build everything and measure what redial costs, beside the direct path and other proxies; needs root.
    Bench(bench::Args),
    /// Build the kernel programs into target/bpf/redial-ebpf.o.
    BuildEbpf,
    /// Build everything and show, in two network namespaces, what redial does, with numbers; needs root.
    Demo(demo::Args),
    /// Build the fuzz targets and run each for a while, from its seeds on.
    Fuzz(fuzz::Args),
    /// Build redial's container image into target/image/redial.tar.
    Image,
    /// Format, clippy, documentation, the chart, and the dependencies' licences and sources.
    Lint,
    /// Render the Helm chart into deploy/manifest.yaml.
    Manifest,
    /// Build everything and run all tests; the kernel's as root.
    Test(test::Args),
    /// Build everything and run the kernel's tests on other kernels, in virtual machines.
    Vm(vm::Args),
}

fn main() -> ExitCode {
    match run(&Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Setup(args) => setup::run(args),
        Command::Bench(args) => bench::run(args),
        Command::BuildEbpf => build_ebpf::run(),
        Command::Demo(args) => demo::run(args),
        Command::Fuzz(args) => fuzz::run(args),
        Command::Image => image::run(),
        Command::Lint => lint::run(),
        Command::Manifest => manifest::run(),
        Command::Test(args) => test::run(args),
        Command::Vm(args) => vm::run(args),
    }
}

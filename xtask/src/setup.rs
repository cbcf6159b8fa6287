//! `cargo xtask setup`: whatever building, the demo and the tests need, and nothing that is there already.
//!
//! Running it twice changes nothing the second time. The other commands call the part that they need, so that on a
//! fresh machine each of them is one command.

mod apt;
mod clients;
pub(crate) mod envoy;
mod go;
pub(crate) mod helm;
pub(crate) mod kernels;
pub(crate) mod kubernetes;

use crate::shell::{self, tools, which};
use crate::toolchain::{BPF_LINKER, LLVM, Linker, RUST, Toolchain};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of cargo-deny, from crates.io.
const CARGO_DENY: &str = "0.20.2";

/// A program that has to be on this machine, and the package of Debian and Ubuntu that has it.
type Program = (&'static str, &'static str);

const TO_COMPILE: &[Program] = &[("cc", "build-essential"), ("c++", "build-essential")];

/// What the demo and the tests run.
const TO_RUN: &[Program] = &[
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("ps", "procps"),
    ("curl", "curl"),
    ("haproxy", "haproxy"),
    ("nginx", "nginx"),
    // A full path is looked for as it stands.
    ("/usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream"),
    ("openssl", "openssl"),
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("postgres", "postgresql"),
    ("psql", "postgresql-client"),
    ("python3", "python3"),
    ("go", "golang"),
    ("javac", "default-jdk-headless"),
    ("node", "nodejs"),
    ("runc", "runc"),
];

/// What a node of the tests' Kubernetes runs, beside what comes with it.
const TO_RUN_PODS: &[Program] = &[("nsenter", "util-linux")];

/// Options of `cargo xtask setup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only what building needs, and nothing for the demo, the tests or lint.
    #[arg(long)]
    build_only: bool,
}

/// Sets up everything, or what building needs.
pub(crate) fn run(args: &Args) -> Result<()> {
    to_build()?;
    if !args.build_only {
        to_run()?;
        to_run_kubernetes()?;
        to_run_kernels()?;
        to_lint()?;
    }
    println!("everything is there");
    Ok(())
}

/// A compiler of C and C++.
pub(crate) fn to_compile() -> Result<()> {
    println!("what compiling needs");
    programs(TO_COMPILE)
}

/// That, the sources of `core` and bpf-linker.
pub(crate) fn to_build() -> Result<()> {
    to_compile()?;
    println!("what building needs");
    core_sources()?;
    bpf_linker()
}

/// The programs that the demo and the tests run. Nothing is started.
pub(crate) fn to_run() -> Result<()> {
    println!("what the demo and the tests need");
    programs(TO_RUN)?;
    clients::install()?;
    envoy::install()
}

/// The Kubernetes that the tests start. The first time takes a quarter of an hour.
pub(crate) fn to_run_kubernetes() -> Result<()> {
    println!("what the tests on Kubernetes need");
    kubernetes::install()
}

/// The emulator of the virtual machines. Their kernels are fetched when they are asked for: see [`kernels::of`].
pub(crate) fn to_run_kernels() -> Result<()> {
    println!("what the tests on other kernels need");
    kernels::install_emulator()
}

/// Helm, which renders the chart.
pub(crate) fn to_render() -> Result<()> {
    println!("what rendering the chart needs");
    helm::install()
}

/// rustfmt, clippy, cargo-deny and Helm.
pub(crate) fn to_lint() -> Result<()> {
    to_render()?;
    println!("what lint needs");
    for (component, program) in [("rustfmt", "cargo-fmt"), ("clippy", "cargo-clippy")] {
        // rustup has a stand-in on PATH for what a toolchain lacks, so it is asked to answer.
        if shell::output(Command::new(program).arg("--version")).is_some() {
            there(component, "");
        } else {
            missing(component);
            shell::run(Command::new("rustup").args(["component", "add", component]))?;
        }
    }
    if let Some(toolchain) = Toolchain::find().filter(|toolchain| toolchain.clippy().is_none()) {
        println!("  {toolchain} has no clippy");
        apt::install(&["rust-web-clippy"])?;
    }
    if cargo_deny()?.is_file() {
        there("cargo-deny", CARGO_DENY);
        return Ok(());
    }
    missing("cargo-deny");
    // Unoptimised it is built in half the time, and is quick enough.
    shell::run(cargo_install("cargo-deny", CARGO_DENY)?.args(["--locked", "--debug"]))
}

/// Where [`to_lint`] puts cargo-deny.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    Ok(tools()?.join(format!("cargo-deny-{CARGO_DENY}/bin/cargo-deny")))
}

fn programs(programs: &[Program]) -> Result<()> {
    let mut packages = Vec::new();
    for &(program, package) in programs {
        if let Some(path) = which(program) {
            there(program, &path.display().to_string());
        } else {
            missing(program);
            packages.push(package);
        }
    }
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    apt::install(&packages)?;
    match programs.iter().find(|(program, _)| which(program).is_none()) {
        Some((program, package)) => bail!("{package} is installed and there is still no {program} on PATH"),
        None => Ok(()),
    }
}

/// `core` has to be compiled for BPF, so some toolchain needs its sources: see [`Toolchain`].
fn core_sources() -> Result<()> {
    let what = "core's sources";
    if let Some(toolchain) = Toolchain::find() {
        there(what, &toolchain.to_string());
        return Ok(());
    }
    missing(what);
    let add = ["component", "add", "rust-src"];
    let install =
        ["toolchain", "install", RUST, "--profile=minimal", "--component=rust-src", "--no-self-update"];
    let rustup = |words: &[&str]| shell::run(Command::new("rustup").args(words));
    let debian = || apt::install(&["rustc-web", "cargo-web", "rust-web-src"]);

    let ways: [&dyn Fn() -> Result<()>; 3] = [&|| rustup(&add), &|| rustup(&install), &debian];
    for way in ways {
        match way() {
            Ok(()) if Toolchain::find().is_some() => return Ok(()),
            Ok(()) => println!("that does not do: its LLVM is newer than {LLVM}, which bpf-linker uses"),
            Err(error) => println!("{error:#}"),
        }
    }
    bail!("no Rust toolchain has {what}; by hand: rustup toolchain install {RUST} --component rust-src")
}

/// Built with Debian's LLVM or the one at `LLVM_PREFIX`; where there is none, upstream's own build.
fn bpf_linker() -> Result<()> {
    if Linker::find()?.is_some() {
        there("bpf-linker", BPF_LINKER);
        return Ok(());
    }
    missing("bpf-linker");
    let ways: [fn() -> Result<()>; 2] = [compile_bpf_linker, download_bpf_linker];
    for way in ways {
        match way() {
            Ok(()) if Linker::find()?.is_some() => return Ok(()),
            Ok(()) => println!("that bpf-linker does not start here"),
            Err(error) => println!("{error:#}"),
        }
    }
    bail!(
        "there is no bpf-linker; by hand: install LLVM {LLVM} with its headers (https://apt.llvm.org has packages), \
         then repeat this with LLVM_PREFIX set to the folder whose bin/ has that LLVM's llvm-config"
    )
}

fn compile_bpf_linker() -> Result<()> {
    let debian = || format!("/usr/lib/llvm-{LLVM}").into();
    let prefix = std::env::var_os("LLVM_PREFIX").map_or_else(debian, PathBuf::from);
    if !prefix.join("bin/llvm-config").is_file() {
        let llvm =
            [&format!("llvm-{LLVM}-dev"), &format!("libpolly-{LLVM}-dev"), "zlib1g-dev", "libzstd-dev"];
        apt::install(&llvm)?;
    }
    shell::run(
        cargo_install("bpf-linker", BPF_LINKER)?
            .arg("--no-default-features")
            .arg(format!("--features=llvm-{LLVM}"))
            .env("LLVM_PREFIX", &prefix)
            .env(format!("LLVM_SYS_{LLVM}1_PREFIX"), &prefix)
            .env("PATH", shell::path_with(&[&prefix.join("bin")])?),
    )
}

fn download_bpf_linker() -> Result<()> {
    programs(&[("curl", "curl"), ("zstd", "zstd")])?;
    let name = format!("bpf-linker-{}-unknown-linux-musl.tar.zst", std::env::consts::ARCH);
    let url = format!("https://github.com/aya-rs/bpf-linker/releases/download/v{BPF_LINKER}/{name}");
    let folder = Linker::root()?.join("bin");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let archive = folder.join(name);
    shell::run(Command::new("curl").args(["-fsSL", "--retry", "2", "-o"]).arg(&archive).arg(url))?;
    shell::run(Command::new("tar").arg("-xpf").arg(&archive).arg("-C").arg(&folder))?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
}

/// Into a folder of its own among our tools, where it disturbs nothing that the user has.
fn cargo_install(name: &str, version: &str) -> Result<Command> {
    let mut cargo = Command::new("cargo");
    let root = tools()?.join(format!("{name}-{version}"));
    cargo.args(["install", name, "--version", version, "--root"]).arg(root).current_dir(Path::new("/"));
    Ok(cargo)
}

/// Has a folder made under another name, so that what ends early leaves nothing that looks complete.
fn part(what: &str, folder: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.is_dir() {
        there(what, &folder.display().to_string());
        return Ok(());
    }
    missing(what);
    let unfinished = folder.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    fs::create_dir_all(&unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
    make(&unfinished)?;
    fs::rename(&unfinished, folder).with_context(|| format!("cannot make {}", folder.display()))
}

fn there(what: &str, detail: &str) {
    println!("  {what:<16} already there  {detail}");
}

fn missing(what: &str) {
    println!("  {what:<16} missing");
}

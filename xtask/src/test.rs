//! `cargo xtask test`: the unit tests and a moment of every fuzz target, then those on this machine's own kernel, then
//! those on a Kubernetes of its own, then a few of them on other kernels, where there are any for this machine.
//!
//! The second and the third need root and a cgroup2 hierarchy. Without them the command fails at once, before it builds
//! anything.

use crate::{build_ebpf, fuzz, image, setup, shell, vm};
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The test targets of the tests' package that need no Kubernetes.
const KERNEL: &[&str] = &["kernel", "differential"];

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct Part {
    /// Only the unit tests, which need neither root nor what `cargo xtask setup` installs.
    #[arg(long)]
    unit: bool,
    /// Only the tests on the kernel.
    #[arg(long)]
    kernel: bool,
    /// Only the tests on Kubernetes.
    #[arg(long)]
    kubernetes: bool,
    /// Only the tests on other kernels: the few of `cargo xtask vm` that matter most.
    #[arg(long, conflicts_with = "rest")]
    vm: bool,
}

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    only: Part,
    /// With --kubernetes: not a cluster of the tests' own, but the one of this file, for those tests that need only its API.
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// With --kubeconfig: where the cluster's nodes pull the images from. They have them already where this is not given.
    #[arg(long, value_name = "PREFIX", requires = "kubeconfig")]
    image_prefix: Option<String>,
    /// What `cargo test` is to be told: a filter, or options of its own, or after another `--` those of the tests.
    #[arg(last = true)]
    rest: Vec<OsString>,
}

/// Sets up, builds and runs the tests. Stops after the first part that fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let Part { unit, kernel, kubernetes, vm } = args.only;
    let all = !(unit || kernel || kubernetes || vm);
    let (unit, kernel, kubernetes) = (unit || all, kernel || all, kubernetes || all);
    // What cargo is told is about this machine's tests.
    let vm = vm || all && args.rest.is_empty() && vm::can_run();
    if let Some(kubeconfig) = &args.kubeconfig {
        return on_given(kubeconfig, args);
    }
    if kernel || kubernetes {
        needs_root_and_cgroup2()?;
    }
    if kernel || kubernetes || vm {
        setup::to_build()?;
        setup::to_run()?;
    }
    if kubernetes {
        setup::to_render()?;
        setup::to_run_kubernetes()?;
    }
    if vm {
        setup::to_run_kernels()?;
    }
    if unit {
        shell::run(shell::cargo("test").args(["--workspace", "--exclude", "redial-tests"]).args(&args.rest))?;
    }
    if all {
        fuzz::short()?;
    }
    if kernel || kubernetes || vm {
        build_ebpf::run()?;
    }
    if kernel {
        // What is tested is what the image has.
        let redial = image::redial_program()?;
        let mut tests = by_root(tests(KERNEL))?;
        tests.args(&args.rest).env("REDIAL_BIN", redial).env("ENVOY_BIN", setup::envoy::program()?);
        shell::run(&mut tests)?;
    }
    if kubernetes {
        image::redial()?;
        let pods = image::pods()?;
        let images = pods[0].parent().context("an image without a folder")?;
        let mut tests = by_root(tests(&["kubernetes"]))?;
        tests.args(&args.rest).env("REDIAL_IMAGES", images).env("REDIAL_BIN", image::redial_program()?);
        tests.env("REDIAL_KUBERNETES", setup::kubernetes::folder()?).env("HELM_BIN", setup::helm::program()?);
        shell::run(&mut tests)?;
    }
    if vm {
        vm::short(&image::redial_program()?)?;
    }
    Ok(())
}

/// Runs the tests that need no more of a cluster than its API. It needs neither root nor Kubernetes here, but kubectl and Helm.
fn on_given(kubeconfig: &Path, args: &Args) -> Result<()> {
    let kubeconfig = fs::canonicalize(kubeconfig)
        .with_context(|| format!("--kubeconfig: cannot read {}", kubeconfig.display()))?;
    shell::which("kubectl").context("--kubeconfig: there is no kubectl on PATH")?;
    setup::to_build()?;
    setup::to_render()?;
    build_ebpf::run()?;
    let [pod, _] = image::pods()?;
    let mut tests = tests(&["kubernetes"]);
    tests.args(&args.rest).env("REDIAL_KUBECONFIG", kubeconfig).env("HELM_BIN", setup::helm::program()?);
    println!("the cluster's nodes need these images, or have to be able to pull them:");
    for (image, archive) in [(image::reference(), image::redial()?), (image::POD.to_owned(), pod)] {
        let name = match &args.image_prefix {
            Some(prefix) => format!("{prefix}/{}", image.rsplit('/').next().unwrap_or(&image)),
            None => image,
        };
        println!("  {name}  {}", archive.display());
    }
    if let Some(prefix) = &args.image_prefix {
        tests.env("REDIAL_IMAGE_PREFIX", prefix);
    }
    shell::run(&mut tests)
}

fn tests(targets: &[&str]) -> Command {
    let mut cargo = shell::cargo("test");
    cargo.args(["--package", "redial-tests"]);
    cargo.args(targets.iter().flat_map(|target| ["--test", target]));
    // The tests make namespaces, cgroups and load on one machine, so each has it to itself.
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        cargo.env("RUST_TEST_THREADS", "1");
    }
    cargo
}

/// The tests run as root; cargo does not, so that it leaves no files of root's in the target folder.
fn by_root(mut cargo: Command) -> Result<Command> {
    if !shell::is_root()? {
        // sudo sets a PATH of its own, which lacks what the user installed.
        let path = std::env::var("PATH").context("PATH")?;
        let runner = format!("['sudo', '-E', 'env', 'PATH={path}']");
        cargo.arg("--config").arg(format!("target.'cfg(all())'.runner={runner}"));
    }
    Ok(cargo)
}

/// Builds the program of the tests on the kernel, and the helpers that it starts.
pub(crate) fn kernel_program() -> Result<PathBuf> {
    let mut cargo = shell::cargo("test");
    cargo.args(["--package", "redial-tests", "--test", "kernel", "--no-run"]);
    shell::run(&mut cargo)?;
    let messages = shell::output(cargo.args(["--quiet", "--message-format", "json"]));
    let messages = messages.context("cargo does not say what it built")?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = messages.filter(|message| message["target"]["kind"] == json!(["test"]));
    let program = programs.find_map(|message| message["executable"].as_str().map(PathBuf::from));
    program.context("cargo says nothing of the tests' program")
}

fn needs_root_and_cgroup2() -> Result<()> {
    shell::as_root("true").context("the kernel tests")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    if !mounts.lines().any(|mount| mount.contains(" - cgroup2 ")) {
        bail!("the kernel tests need a cgroup2 hierarchy: mount -t cgroup2 none /sys/fs/cgroup");
    }
    Ok(())
}

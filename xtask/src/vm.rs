//! `cargo xtask vm`: the kernel's tests on distributions' own kernels, oldest to newest, each in a virtual machine.
//!
//! The machines are qemu's, emulated, so that this works where there is no virtualisation. A machine has the host's root
//! file system under a layer of its own, so the tests find the programs that they find on the host, and leave nothing
//! there. Its kernel's messages are in `target/vm/SUITE/console.log`, what the tests said in `tests.log` beside it.

mod initramfs;

use crate::setup;
use crate::setup::kernels::{self, Suite};
use crate::{build_ebpf, image, shell, test};
use anyhow::{Context as _, Result, bail};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// What redial does that depends on the kernel, in a few minutes.
const SHORT: &[&str] = &[
    "transparency::an_enrolled_workload",
    "transparency::excluded_ports",
    "transparency::link_local",
    "transparency::multipath",
    "transparency::the_upstream_socket",
    "transparency::transparent_sockets",
    "policy::it_makes_exactly",
    "relay::a_reset_by",
    "relay::a_close_right_after",
    "relay::an_urgent_byte_arrives",
    "exec::the_command_is_intercepted",
    "robustness::a_second_agent_takes_over",
    "robustness::terminated_it_drains",
    "containers::",
];

/// All that a machine without other programs than the system's can run in reasonable time.
const WHOLE: &[&str] =
    &["addresses::", "transparency::", "relay::", "policy::", "exec::", "robustness::", "containers::"];

/// What runs on a kernel that is too old. These are ignored elsewhere.
const TOO_OLD: &[&str] = &["--ignored", "--nocapture", "old_kernel::"];

/// How long a machine may take with the few tests and with any others, from its start to its end, on a busy host.
const SHORT_LIMIT: Duration = Duration::from_mins(12);
const LIMIT: Duration = Duration::from_mins(40);

/// So many machines at once, as an emulated processor is a thread of the host.
const AT_ONCE: usize = 2;

/// What a kernel says that has a fault.
const FAULTS: &[&str] =
    &["Kernel panic", "Oops", "BUG: ", "soft lockup", "hard LOCKUP", "general protection fault"];

/// What the kernels are started with. A fault ends the machine at once; that the host is busy is not taken for one.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 oops=panic softlockup_panic=1 \
                            sysctl.kernel.watchdog_thresh=60 mitigations=off";

/// Options of `cargo xtask vm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The releases whose kernels to test; without any, all.
    suites: Vec<Suite>,
    /// The tests to run, by parts of their names, and options of the tests' program.
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Sets up, builds and runs the tests on each kernel.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !can_run() {
        bail!("the virtual machines run this machine's programs, and only for x86-64 are there kernels here");
    }
    setup::to_build()?;
    setup::to_run()?;
    setup::to_run_kernels()?;
    build_ebpf::run()?;
    let suites = if args.suites.is_empty() { &Suite::ALL } else { args.suites.as_slice() };
    let rest: Vec<&str> = args.rest.iter().map(String::as_str).collect();
    on_each(suites, &image::redial_program()?, if rest.is_empty() { WHOLE } else { &rest }, LIMIT)
}

/// Whether there are kernels for the programs of this machine.
pub(crate) fn can_run() -> bool {
    std::env::consts::ARCH == "x86_64"
}

/// Runs the few tests that matter most, on all kernels.
pub(crate) fn short(redial: &Path) -> Result<()> {
    on_each(&Suite::ALL, redial, SHORT, SHORT_LIMIT)
}

/// Runs these tests on each kernel, and says how each did.
fn on_each(suites: &[Suite], redial: &Path, tests: &[&str], limit: Duration) -> Result<()> {
    let program = test::kernel_program()?;
    let kernels = suites.iter().map(|suite| kernels::of(*suite)).collect::<Result<Vec<_>>>()?;
    let waiting: Mutex<Vec<_>> = Mutex::new(suites.iter().zip(&kernels).enumerate().rev().collect());
    let next = || waiting.lock().ok()?.pop();
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((place, (suite, kernel))) = next() {
                    let tests = if *suite == Suite::Bullseye { TOO_OLD } else { tests };
                    let ended = machine(*suite, kernel, &program, redial, tests, limit);
                    if let Ok(mut done) = done.lock() {
                        done.push((place, &kernel.release, ended));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().ok().context("a machine's thread panicked")?;
    done.sort_by_key(|(place, ..)| *place);
    let mut failed = Vec::new();
    println!("\n{:<26} {:>6} {:>6} {:>8}  what it lacks", "kernel", "passed", "failed", "seconds");
    for (_, release, ended) in &done {
        match ended {
            Ok(Report { passed, failed: not, lacks, took, faults }) => {
                println!("{release:<26} {passed:>6} {not:>6} {:>8}  {lacks}", took.as_secs());
                failed.extend(faults.iter().map(|fault| format!("{release}: {fault}")));
            }
            Err(error) => failed.push(format!("{release}: {error:#}")),
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    Ok(())
}

/// How a kernel did.
#[derive(Debug)]
struct Report {
    passed: usize,
    failed: usize,
    lacks: String,
    took: Duration,
    /// Why this is a failure, if it is.
    faults: Vec<String>,
}

/// Starts a machine and waits for its end.
fn machine(
    suite: Suite,
    kernel: &kernels::Kernel,
    program: &Path,
    redial: &Path,
    tests: &[&str],
    limit: Duration,
) -> Result<Report> {
    let folder = shell::root().join("target/vm").join(suite.name());
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (initramfs, script, console) =
        (folder.join("initramfs"), folder.join("run.sh"), folder.join("console.log"));
    write(&initramfs, &initramfs::build(kernel)?)?;
    write(&script, to_run(kernel, program, redial, tests)?.as_bytes())?;

    // Also where nobody waits for it any more, a machine ends.
    let mut qemu = Command::new("timeout");
    qemu.args(["--foreground", "--signal=KILL", &limit.as_secs().to_string(), "qemu-system-x86_64"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "2G"])
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(&initramfs)
        .arg("-append")
        .arg(format!("{COMMAND_LINE} redial.script={}", script.display()))
        .args(["-serial", &format!("file:{}", console.display()), "-serial", "stdio"])
        .args(["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let started = Instant::now();
    let mut qemu = qemu.spawn().context("cannot start qemu")?;
    let output = qemu.stdout.take().context("qemu without output")?;
    let said = read_tests(&kernel.release, output, &folder.join("tests.log"))?;
    let status = qemu.wait().context("qemu")?;
    let console = fs::read(&console).with_context(|| format!("cannot read {}", console.display()))?;
    let mut report = report(&said, &String::from_utf8_lossy(&console));
    report.took = started.elapsed();
    if !status.success() {
        report.faults.push(format!("qemu: {status} (after {} s it is ended)", limit.as_secs()));
    }
    Ok(report)
}

/// Shows what the tests say, and keeps it.
fn read_tests(release: &str, output: impl std::io::Read, log: &Path) -> Result<String> {
    let mut log = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
    let mut said = String::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        println!("{release}  {line}");
        writeln!(log, "{line}")?;
        writeln!(said, "{line}")?;
    }
    Ok(said)
}

/// What a machine's tests and its kernel said.
fn report(tests: &str, console: &str) -> Report {
    let mut faults: Vec<String> = console
        .lines()
        .filter(|line| FAULTS.iter().any(|fault| line.contains(fault)))
        .map(|line| line.trim().to_owned())
        .collect();
    let result = tests.lines().find_map(|line| line.strip_prefix("test result: "));
    let count = |what: &str| {
        let parts = result?.split([';', '.']);
        parts.filter_map(|part| part.trim().strip_suffix(what)).find_map(|number| number.trim().parse().ok())
    };
    let (passed, failed) = (count("passed").unwrap_or(0), count("failed").unwrap_or(0));
    if passed == 0 {
        faults.push("no test passed".to_owned());
    }
    if !tests.lines().any(|line| line == "ended: 0") {
        faults.push("the tests failed, or did not come to their end".to_owned());
    }
    let lacks = tests.lines().find_map(|line| line.strip_prefix("redial says: ")).unwrap_or_default();
    Report { passed, failed, lacks: lacks.to_owned(), took: Duration::ZERO, faults }
}

/// What a machine runs when it is up.
fn to_run(kernel: &kernels::Kernel, program: &Path, redial: &Path, tests: &[&str]) -> Result<String> {
    let path = std::env::var("PATH").context("PATH")?;
    let set: [(&str, PathBuf); 6] = [
        ("PATH", format!("/usr/local/sbin:/usr/sbin:/sbin:{path}").into()),
        ("HOME", "/root".into()),
        ("REDIAL_BIN", redial.into()),
        ("RUST_TEST_THREADS", "1".into()),
        ("modules", kernel.modules()),
        ("tests", shell::root().join("tests")),
    ];
    let mut script = String::new();
    for (name, value) in set {
        let value = value.to_str().with_context(|| format!("{} is not UTF-8", value.display()))?;
        writeln!(script, "export {name}={}", quoted(value))?;
    }
    let program = program.to_str().context("the tests' program is not UTF-8")?;
    let words = [program, "--color", "never"].into_iter().chain(tests.iter().copied());
    writeln!(script, "set -- {}", words.map(quoted).collect::<Vec<_>>().join(" "))?;
    script.push_str(include_str!("vm/run.sh"));
    Ok(script)
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::report;

    const PASSED: &str = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored\n\nended: 0\n";

    #[test]
    fn tests_that_pass_on_a_kernel_without_a_fault_are_fine() {
        let report = report(PASSED, "[    0.0] Command line: oops=panic\n");
        assert_eq!((report.passed, report.failed), (2, 0));
        assert_eq!(report.faults, [""; 0]);
    }

    #[test]
    fn a_fault_of_the_kernel_is_a_failure_whatever_the_tests_say() {
        for line in [
            "[    9.1] BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "[    9.1] BUG: KASAN: slab-use-after-free in tcp_rcv_established+0x1f/0x90",
            "[    9.1] BUG: scheduling while atomic: redial/311/0x00000002",
            "[    9.1] Oops: 0002 [#1] PREEMPT SMP NOPTI",
            "[    9.1] general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1]",
            "[  129.1] watchdog: BUG: soft lockup - CPU#1 stuck for 134s! [redial:311]",
            "[  129.1] NMI watchdog: Watchdog detected hard LOCKUP on cpu 0",
            "[    9.1] Kernel panic - not syncing: Fatal exception in interrupt",
        ] {
            let console =
                format!("[    0.0] Linux version 6.12\r\n{line}\r\n[    9.2] reboot: Power down\r\n");
            assert_eq!(report(PASSED, &console).faults, [line]);
        }
    }

    #[test]
    fn what_a_kernel_says_of_faults_that_it_has_not_is_none() {
        let console = "[    0.0] Kernel command line: panic=-1 oops=panic softlockup_panic=1\n\
                       [    0.1] NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.\n\
                       [    0.2] rcu: RCU debug extended QS entry/exit.\n";
        assert_eq!(report(PASSED, console).faults, [""; 0]);
    }

    #[test]
    fn tests_that_fail_or_do_not_end_are_a_failure() {
        let failed = "test result: FAILED. 1 passed; 1 failed; 0 ignored\n\nended: 101\n";
        assert_eq!(report(failed, "").failed, 1);
        assert_eq!(report(failed, "").faults.len(), 1);
        assert_eq!(report("running 2 tests\n", "").faults.len(), 2);
    }
}

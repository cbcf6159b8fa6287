//! `redial exec`: the command runs as if it had been started without it, and nothing stays behind.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redial_tests::agent::binary;
use redial_tests::cgroup;
use redial_tests::firewall::{Fate, Firewall};
use redial_tests::script::Step;
use redial_tests::upstream::Upstream;
use redial_tests::world::{Family, SERVER_V4, World};

const PORT: u16 = 80;

/// `redial exec -- sh -c SCRIPT` in the pod's network.
fn exec(script: &str) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(["exec", "--", "sh", "-c", script]).stdin(Stdio::null());
    Ok(command)
}

fn run(world: &World, mut command: Command) -> Result<Output> {
    world.pod.run(move || Ok(command.output()?))
}

/// A command whose output can be read while it runs. Drop kills it.
struct Started {
    child: Child,
    output: File,
}

impl Started {
    fn new(world: &World, command: &mut Command) -> Result<Self> {
        let mut child = world.pod.spawn(command.stdout(Stdio::piped()))?;
        let output = File::from(OwnedFd::from(child.stdout.take().context("no stdout")?));
        Ok(Self { child, output })
    }

    fn on_terminal(world: &World, command: &mut Command, terminal: OwnedFd) -> Result<Self> {
        Ok(Self { child: world.pod.spawn(command)?, output: File::from(terminal) })
    }

    /// Reads to the end of a line, and returns that line.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        while !line.ends_with('\n') {
            let mut readable = [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
            ensure!(poll(&mut readable, PollTimeout::from(30_000_u16))? == 1, "silence after `{line}`");
            let mut byte = [0];
            self.output.read_exact(&mut byte).with_context(|| format!("the output ended after `{line}`"))?;
            line.push(char::from(byte[0]));
        }
        Ok(line.trim().to_owned())
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            sleep(Duration::from_millis(10));
        }
        bail!("the command does not end")
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Where the cgroup is that /proc/self/cgroup names as `0::/path`.
fn cgroup_at(proc_line: &str) -> Result<PathBuf> {
    let path =
        proc_line.trim().strip_prefix("0::/").with_context(|| format!("not a cgroup2 line: {proc_line}"))?;
    Ok(cgroup::mount()?.join(path))
}

const PRINT_CGROUP: &str = "grep ^0:: /proc/self/cgroup";

#[test]
fn the_command_is_intercepted() -> Result<()> {
    let world = World::new("exec")?;
    let firewall = Firewall::new(&world.server)?;
    firewall.set(PORT, Fate::RefuseFirst(2, 1_000_000))?;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n";
    let script = [Step::ReceiveUntil("\r\n\r\n".to_owned()), Step::Send(answer.to_owned())];
    let _server = Upstream::start(&world.server, Family::V4.server(PORT), &script)?;
    let output = run(&world, exec(&format!("curl -sS http://{SERVER_V4}:{PORT}/"))?)?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n", "{output:?}");
    assert!(output.status.success());
    assert_eq!(firewall.attempts_to(PORT)?, 3);
    Ok(())
}

#[test]
fn the_exit_code_passes_through() -> Result<()> {
    let world = World::new("exec")?;
    for code in [0, 1, 42, 255] {
        assert_eq!(run(&world, exec(&format!("exit {code}"))?)?.status.code(), Some(code));
    }
    Ok(())
}

#[test]
fn a_command_ended_by_a_signal_gives_128_and_the_signal() -> Result<()> {
    let world = World::new("exec")?;
    // SIGKILL, SIGSEGV, SIGTERM.
    for number in [9, 11, 15] {
        let status = run(&world, exec(&format!("kill -{number} $$"))?)?.status;
        assert_eq!(status.code(), Some(128 + number), "{status}");
    }
    Ok(())
}

#[test]
fn input_and_output_pass_through_and_redial_adds_nothing() -> Result<()> {
    let world = World::new("exec")?;
    let mut command = exec("cat; echo complaint >&2")?;
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = world.pod.spawn(command.stdout(Stdio::piped()))?;
    child.stdin.take().context("no stdin")?.write_all(b"through\n")?;
    let output = child.wait_with_output()?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "through\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "complaint\n");
    Ok(())
}

#[test]
fn arguments_and_environment_pass_through() -> Result<()> {
    let world = World::new("exec")?;
    let mut command = Command::new(binary()?);
    command.args(["exec", "--", "sh", "-c", r#"echo "$1|$2|$MARK|$PWD""#, "sh", "--config", "a b"]);
    command.env("MARK", "kept").current_dir("/usr/bin");
    let output = run(&world, command)?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "--config|a b|kept|/usr/bin\n");
    Ok(())
}

#[test]
fn the_terminal_passes_through_and_ctrl_c_leaves_nothing_behind() -> Result<()> {
    let world = World::new("exec")?;
    let terminal = openpty(None, None)?;
    let script = format!("{PRINT_CGROUP}; test -t 0 && test -t 1 && test -t 2 && echo terminal; exec cat");
    let mut command = Command::new("setsid");
    // In a session of its own, with the new terminal as the controlling one, as in a terminal window.
    command.args(["--ctty", "--wait"]).arg(binary()?).args(["exec", "--", "sh", "-c", &script]);
    command.stdin(terminal.slave.try_clone()?).stdout(terminal.slave.try_clone()?).stderr(terminal.slave);
    let mut screen = File::from(terminal.master.try_clone()?);
    let mut started = Started::on_terminal(&world, &mut command, terminal.master)?;
    let cgroup = cgroup_at(&started.line()?)?;
    assert!(cgroup.is_dir(), "{}", cgroup.display());
    assert_eq!(started.line()?, "terminal");
    // Once from the terminal's echo and once from cat, which by then is in the shell's place: a shell that is about to
    // start something may lose a SIGINT, with redial or without.
    screen.write_all(b"anyone?\n")?;
    assert_eq!([started.line()?, started.line()?], ["anyone?", "anyone?"]);

    screen.write_all(b"\x03")?;
    let status = started.wait()?;
    assert_eq!(status.code(), Some(130), "{status}");
    assert!(!cgroup.exists(), "{} stays behind", cgroup.display());
    Ok(())
}

#[test]
fn sigterm_reaches_the_command() -> Result<()> {
    let world = World::new("exec")?;
    let script = format!("trap 'echo bye; exit 7' TERM; {PRINT_CGROUP}; while :; do sleep 0.05; done");
    let mut started = Started::new(&world, &mut exec(&script)?)?;
    let cgroup = cgroup_at(&started.line()?)?;
    assert!(cgroup.is_dir());
    kill(Pid::from_raw(i32::try_from(started.child.id())?), Signal::SIGTERM)?;
    assert_eq!(started.line()?, "bye");
    assert_eq!(started.wait()?.code(), Some(7));
    assert!(!cgroup.exists(), "{} stays behind", cgroup.display());
    Ok(())
}

#[test]
fn it_may_be_nested() -> Result<()> {
    let world = World::new("exec")?;
    let redial = binary()?;
    let firewall = Firewall::new(&world.server)?;
    let script = format!("{PRINT_CGROUP}; '{}' exec -- sh -c '{PRINT_CGROUP}; exit 9'", redial.display());
    let output = run(&world, exec(&script)?)?;
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    for cgroup in String::from_utf8_lossy(&output.stdout).lines() {
        assert!(!cgroup_at(cgroup)?.exists(), "{cgroup} stays behind");
    }

    let script = format!("'{}' exec -- curl -sS http://{SERVER_V4}:{PORT}/", redial.display());
    let output = run(&world, exec(&script)?)?;
    assert_eq!(output.status.code(), Some(7), "curl's code for a refused connection: {output:?}");
    assert!(firewall.attempts_to(PORT)? >= 3);
    Ok(())
}

#[test]
fn a_command_that_cannot_start_says_so() -> Result<()> {
    let world = World::new("exec")?;
    for (command, code) in
        [("/no/such/program", 127), ("no-such-program-in-the-path", 127), ("/etc/passwd", 126)]
    {
        let mut redial = Command::new(binary()?);
        redial.args(["exec", "--", command]);
        let output = run(&world, redial)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{command}: {said}");
        assert!(said.contains(command), "{said}");
    }
    Ok(())
}

#[test]
fn without_root_it_says_what_it_needs() -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let redial = directory.path().join("redial");
    fs::copy(binary()?, &redial)?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
    let output = command.arg(&redial).args(["exec", "--", "true"]).current_dir("/").output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("root"), "{said}");
    Ok(())
}

/// What the command left running in its cgroup ends with it, and so the cgroup can go.
#[test]
fn what_the_command_leaves_running_does_not_keep_the_cgroup() -> Result<()> {
    let world = World::new("exec")?;
    let script = format!("{PRINT_CGROUP}; sleep 2 >/dev/null 2>&1 & exit 0");
    let output = run(&world, exec(&script)?)?;
    assert!(output.status.success());
    let cgroup = cgroup_at(&String::from_utf8_lossy(&output.stdout))?;
    assert!(!cgroup.exists(), "{} stays behind", cgroup.display());
    Ok(())
}

/// One that is killed cannot tidy up. The next one does, but takes nothing that somebody is still in.
#[test]
fn the_cgroup_of_one_that_was_killed_goes_with_the_next() -> Result<()> {
    let world = World::new("exec")?;
    let mut killed = Started::new(&world, &mut exec(&format!("{PRINT_CGROUP}; exec sleep infinity"))?)?;
    let left = Left(cgroup_at(&killed.line()?)?);
    killed.child.kill()?;
    killed.wait()?;
    // What printed the line may be on its way out.
    let deadline = Instant::now() + Duration::from_secs(30);
    while left.processes() > 1 && Instant::now() < deadline {
        sleep(Duration::from_millis(5));
    }
    assert_eq!(left.processes(), 1, "the command goes on without redial");

    assert!(run(&world, exec("true")?)?.status.success());
    assert_eq!(left.processes(), 1, "the next one has left a cgroup in use as it was");

    fs::write(left.0.join("cgroup.kill"), "1")?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while left.processes() > 0 {
        ensure!(Instant::now() < deadline, "the command does not end");
        sleep(Duration::from_millis(5));
    }
    assert!(run(&world, exec("true")?)?.status.success());
    assert!(!left.0.exists(), "{} stays behind", left.0.display());
    Ok(())
}

/// A cgroup that was left behind. Drop removes it, should the test have failed.
struct Left(PathBuf);

impl Left {
    /// How many processes are in it; none, where it is gone.
    fn processes(&self) -> usize {
        fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines().count()
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        drop(fs::write(self.0.join("cgroup.kill"), "1"));
        for _ in 0..100 {
            if !self.0.exists() || fs::remove_dir(&self.0).is_ok() {
                return;
            }
            sleep(Duration::from_millis(10));
        }
    }
}
